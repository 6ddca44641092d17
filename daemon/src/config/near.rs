//! "Did you mean": the known word closest to one that was mistyped.

/// What to do about the unknown word `given`: take the near one, or choose from `known`.
pub(super) fn remedy(given: &str, known: &[&str], of: &str) -> String {
    match (nearest(given, known), known) {
        (Some(near), _) => format!("did you mean \"{near}\"?"),
        (None, []) => format!("remove it, there are no {of} here"),
        (None, known) => format!("{of} here: {}", known.join(", ")),
    }
}

/// At most a third of the letters may be wrong, else a guess helps nobody. Case and `-` for `_` cost nothing.
fn nearest<'k>(given: &str, known: &[&'k str]) -> Option<&'k str> {
    let plain = |word: &str| word.to_lowercase().replace('-', "_");
    let given = plain(given);
    let (distance, near) = known
        .iter()
        .map(|word| (strsim::damerau_levenshtein(&given, &plain(word)), *word))
        .min()?;
    (distance <= (near.chars().count() / 3).max(1)).then_some(near)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_with_a_slip_is_recognised() {
        let known = ["socket", "name", "leaf_ttl"];
        for (given, near) in [
            ("sokcet", "socket"),
            ("Socket", "socket"),
            ("leaf-ttl", "leaf_ttl"),
            ("nam", "name"),
        ] {
            assert_eq!(nearest(given, &known), Some(near), "{given}");
        }
    }

    #[test]
    fn a_foreign_word_gets_the_list_instead_of_a_guess() {
        assert_eq!(
            remedy("colour", &["socket", "name"], "keys"),
            "keys here: socket, name"
        );
        assert_eq!(
            remedy("colour", &[], "keys"),
            "remove it, there are no keys here"
        );
    }
}
