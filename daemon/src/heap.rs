//! What glibc's allocator is told, so that idle connections cost what they use. Elsewhere
//! all of it does nothing.
#![allow(unsafe_code, reason = "mallopt and malloc_trim have no safe wrapper")]

/// From this size on, in bytes, an allocation gets pages of its own: those that it never
/// touches cost nothing. HTTP/2 gives each connection a buffer of just this size for
/// writing, of which an idle one has used a few hundred bytes.
const OWN_PAGES: i32 = 16 * 1024;
/// Free memory at the end of the heap up to this, in bytes, is kept for the next burst.
const KEPT: i32 = 4 * 1024 * 1024;

/// Makes large allocations take only the memory that is used of them. To be called before
/// any is made.
pub fn spare_large() {
    #[cfg(target_env = "gnu")]
    // SAFETY: these set two numbers of the allocator, under its own lock; both are in the
    // range that mallopt(3) gives.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_PAGES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
    }
}

/// Makes all threads share one heap: for a process whose work is done by one thread, and
/// in which the others would each keep a heap for what they do now and then.
pub fn share_one() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number of the allocator, under its own lock.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives free memory at the end and inside of the heap back to the kernel. Blocks for a
/// millisecond or so.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: `malloc_trim` takes the allocator's own locks and touches free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn memory_is_sound_after_all_of_it() {
        super::spare_large();
        super::share_one();
        let large: Vec<Vec<u8>> = (0..64).map(|at| vec![at; 20_000]).collect();
        super::trim();
        assert!(
            large
                .iter()
                .enumerate()
                .all(|(at, bytes)| bytes.iter().all(|byte| usize::from(*byte) == at))
        );
    }
}
