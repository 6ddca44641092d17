//! Memory, such that idle connections cost what they use.
#![allow(
    unsafe_code,
    reason = "an allocator is unsafe by its nature, and mallopt and malloc_trim have no safe wrapper"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;

/// From this size on, in bytes, an allocation gets pages of its own.
const LARGE: usize = 16 * 1024;
/// Alignment that pages have at least, everywhere.
const PAGE: usize = 4096;

/// The system's allocator, but for what is large.
///
/// A page that is never touched costs nothing, as long as it does not come from memory
/// that was used and freed before. HTTP/2 gives each connection a buffer of 16 KiB for
/// writing, of which an idle one has used a few hundred bytes; taken from the heap, all
/// of it would stay in memory for as long as the connection does.
#[derive(Clone, Copy, Debug)]
pub struct Allocator;

fn is_large(layout: Layout) -> bool {
    layout.size() >= LARGE && layout.align() <= PAGE
}

// SAFETY: each allocation is the system allocator's or a mapping of its own, and which of
// them it is follows from its layout alone, so that it is freed as it was made. Mappings
// are as long as asked for (the kernel rounds up to pages), aligned to pages, zeroed, and
// nobody else's.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_large(layout) {
            map(layout.size())
        } else {
            // SAFETY: the caller's promises are the same.
            unsafe { System.alloc(layout) }
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_large(layout) {
            map(layout.size())
        } else {
            // SAFETY: the caller's promises are the same.
            unsafe { System.alloc_zeroed(layout) }
        }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if is_large(layout) {
            // SAFETY: `memory` is a mapping of this length, made by `map`.
            unsafe { libc::munmap(memory.cast(), layout.size()) };
        } else {
            // SAFETY: the caller's promises are the same.
            unsafe { System.dealloc(memory, layout) }
        }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that `size` makes a layout with this alignment.
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (is_large(layout), is_large(new)) {
            // SAFETY: the caller's promises are the same.
            (false, false) => unsafe { System.realloc(memory, layout, size) },
            (true, true) => {
                // SAFETY: `memory` is a mapping of this length, made by `map`.
                let moved = unsafe {
                    libc::mremap(memory.cast(), layout.size(), size, libc::MREMAP_MAYMOVE)
                };
                if moved == libc::MAP_FAILED {
                    ptr::null_mut()
                } else {
                    moved.cast()
                }
            }
            _ => {
                // SAFETY: `new` is a valid layout, and the old memory is ours until it is
                // freed here; the two don't overlap.
                unsafe {
                    let moved = self.alloc(new);
                    if !moved.is_null() {
                        ptr::copy_nonoverlapping(memory, moved, layout.size().min(size));
                        self.dealloc(memory, layout);
                    }
                    moved
                }
            }
        }
    }
}

fn map(size: usize) -> *mut u8 {
    // SAFETY: a new private mapping, wherever the kernel likes, touches nobody's memory.
    let memory = unsafe {
        libc::mmap(
            ptr::null_mut(),
            size,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if memory == libc::MAP_FAILED {
        ptr::null_mut()
    } else {
        memory.cast()
    }
}

/// Makes all threads share one heap: the work is done by one thread, and each of the
/// others would keep a heap for what it does now and then. To be called before there is a
/// second thread. Does nothing where the C library is not glibc.
pub fn share_one() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number of the allocator, under its own lock.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives free memory at the end and inside of the heap back to the kernel. Blocks for a
/// millisecond or so. Does nothing where the C library is not glibc.
pub(crate) fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: `malloc_trim` takes the allocator's own locks and touches free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Lets go of the program's own pages, code and constants, of which the start, a connection
/// that begins and the making of certificates touch many that idle streams don't. What is
/// needed comes back by itself, out of the page cache. Does nothing where the C library is
/// not glibc.
pub(crate) fn forget_the_code() {
    #[cfg(target_env = "gnu")]
    {
        // Of the linker: the first byte of the program, and the first after its code.
        unsafe extern "C" {
            static __executable_start: u8;
            static etext: u8;
        }
        let first = ptr::addr_of!(__executable_start)
            .addr()
            .next_multiple_of(PAGE);
        let last = ptr::addr_of!(etext).addr() / PAGE * PAGE;
        if let Some(length) = last.checked_sub(first) {
            // SAFETY: the range holds pages of the program's file that are only read; they
            // are as they were when they are read again.
            unsafe {
                libc::madvise(
                    ptr::with_exposed_provenance_mut(first),
                    length,
                    libc::MADV_DONTNEED,
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(size: usize, align: usize) -> (*mut u8, Layout) {
        let layout = Layout::from_size_align(size, align).expect("a layout");
        // SAFETY: the size is not 0, and all of it is written before it is read.
        let memory = unsafe { Allocator.alloc(layout) };
        assert!(!memory.is_null() && memory.addr().is_multiple_of(align));
        for at in 0..size {
            // SAFETY: within the allocation.
            unsafe { memory.add(at).write(at as u8) };
        }
        (memory, layout)
    }

    #[test]
    fn what_was_written_survives_every_change_of_size() {
        for from in [1, LARGE - 1, LARGE, LARGE + 1, 100_000] {
            for to in [1, LARGE - 1, LARGE, LARGE + 1, 300_000] {
                let (memory, layout) = filled(from, 8);
                // SAFETY: the memory and its layout are those of `filled`; what is read
                // was written, and it is freed with the layout that it has then.
                unsafe {
                    let moved = Allocator.realloc(memory, layout, to);
                    assert!(!moved.is_null());
                    for at in 0..from.min(to) {
                        assert_eq!(moved.add(at).read(), at as u8, "{from} to {to}");
                    }
                    let layout = Layout::from_size_align(to, 8).expect("a layout");
                    Allocator.dealloc(moved, layout);
                }
            }
        }
    }

    #[test]
    fn memory_that_should_be_zero_is_and_alignment_is_kept() {
        for size in [64, LARGE, 5 * LARGE] {
            let layout = Layout::from_size_align(size, 64).expect("a layout");
            // SAFETY: the size is not 0; it is read within it, and freed as it was made.
            unsafe {
                let memory = Allocator.alloc_zeroed(layout);
                assert!((0..size).all(|at| memory.add(at).read() == 0));
                Allocator.dealloc(memory, layout);
            }
        }
        let (memory, layout) = filled(2 * LARGE, 2 * PAGE);
        // SAFETY: freed as it was made.
        unsafe { Allocator.dealloc(memory, layout) };
    }

    #[test]
    fn trimming_is_harmless() {
        drop(vec![0u8; 1 << 20]);
        trim();
    }
}
