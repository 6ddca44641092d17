//! What stands around a backup in its file, in plain text: so a file that was cut off, was changed
//! or is of somebody else is told from one that needs another key.
//!
//! ```text
//! magic [8] | length of the trust domain u16 | trust domain | length u64 | SHA-256 [32] | backup
//! ```
//! Numbers are big-endian; length and hash are of what follows them.

use arx_identity::TrustDomain;
use arx_identity::crypto::sha256;

const MAGIC: [u8; 8] = *b"ARXBKUP1";

/// Why a file is no backup that can be used here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// Something else.
    Foreign(String),
    /// Not whole.
    Broken(String),
}

/// The file of `backup`.
pub(super) fn around(trust_domain: &TrustDomain, backup: &[u8]) -> Vec<u8> {
    let name = trust_domain.as_str().as_bytes();
    let mut file = Vec::with_capacity(MAGIC.len() + 2 + name.len() + 40 + backup.len());
    file.extend_from_slice(&MAGIC);
    // The name of a trust domain has 255 bytes at most.
    file.extend_from_slice(&u16::try_from(name.len()).unwrap_or(u16::MAX).to_be_bytes());
    file.extend_from_slice(name);
    file.extend_from_slice(&(backup.len() as u64).to_be_bytes());
    file.extend_from_slice(&sha256(backup));
    file.extend_from_slice(backup);
    file
}

/// The backup in `file`, of this trust domain and whole.
pub(super) fn within<'a>(trust_domain: &TrustDomain, file: &'a [u8]) -> Result<&'a [u8], Wrong> {
    let rest = match file.strip_prefix(&MAGIC) {
        Some(rest) => rest,
        None if MAGIC.starts_with(file) => return Err(cut(file.len(), None)),
        None => {
            return Err(Wrong::Foreign(
                "it is no backup of Arx: give a file that `arx backup` has written".to_owned(),
            ));
        }
    };
    let short = || cut(file.len(), None);
    let (length, rest) = rest.split_first_chunk::<2>().ok_or_else(short)?;
    let length = usize::from(u16::from_be_bytes(*length));
    let (name, rest) = rest.split_at_checked(length).ok_or_else(short)?;
    let (length, rest) = rest.split_first_chunk::<8>().ok_or_else(short)?;
    let (hash, backup) = rest.split_first_chunk::<32>().ok_or_else(short)?;
    if name != trust_domain.as_str().as_bytes() {
        let name = String::from_utf8_lossy(name);
        return Err(Wrong::Foreign(format!(
            "it is a backup of trust domain {name:.255}, and the configuration says {trust_domain}: give one of this trust domain"
        )));
    }
    let wanted = u64::from_be_bytes(*length);
    let there = backup.len() as u64;
    if there < wanted {
        let before = (file.len() - backup.len()) as u64;
        return Err(cut(file.len(), Some(before.saturating_add(wanted))));
    }
    if there > wanted || sha256(backup) != *hash {
        return Err(Wrong::Broken(
            "it is not what was written (its hash is another): copy it again, or take another one"
                .to_owned(),
        ));
    }
    Ok(backup)
}

fn cut(there: usize, wanted: Option<u64>) -> Wrong {
    let of = wanted.map_or_else(String::new, |wanted| format!(" of {wanted}"));
    Wrong::Broken(format!(
        "it is cut off, {there}{of} bytes are there: copy it again, or take another one"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(name: &str) -> TrustDomain {
        TrustDomain::parse(name).expect("a trust domain")
    }

    #[test]
    fn a_file_that_is_cut_off_anywhere_says_so() {
        let file = around(&domain("example.org"), b"content");
        assert_eq!(within(&domain("example.org"), &file), Ok(&b"content"[..]));
        for length in 0..file.len() {
            let refused = within(&domain("example.org"), &file[..length]);
            let Err(Wrong::Broken(message)) = refused else {
                panic!("{length}: {refused:?}");
            };
            assert!(message.starts_with("it is cut off"), "{length}: {message}");
        }
    }

    #[test]
    fn a_file_of_somebody_else_says_of_whom() {
        let file = around(&domain("other.org"), b"content");
        let refused = within(&domain("example.org"), &file);
        let Err(Wrong::Foreign(message)) = refused else {
            panic!("{refused:?}");
        };
        assert!(message.contains("trust domain other.org"), "{message}");
        let refused = within(&domain("example.org"), b"-----BEGIN CERTIFICATE-----");
        assert!(matches!(refused, Err(Wrong::Foreign(_))), "{refused:?}");
    }

    #[test]
    fn a_file_that_was_changed_says_so() {
        let mut file = around(&domain("example.org"), b"content");
        *file.last_mut().expect("it has bytes") ^= 1;
        let refused = within(&domain("example.org"), &file);
        assert!(matches!(refused, Err(Wrong::Broken(_))), "{refused:?}");
    }
}
