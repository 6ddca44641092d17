//! The records of several ledgers as one list, a page at a time: newest first, and of each ledger in
//! its own order, whatever its clock was. Pure.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

use arx_daemon::clock::unix_ms;

use super::ANSWER;
use crate::ledger::{self, Place};

/// What one ledger has, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) records: VecDeque<Record>,
    /// There are older ones.
    pub(super) more: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) json: String,
    pub(super) time_ms: i64,
    pub(super) place: Place,
}

impl Piece {
    /// What was found in the ledger of `replica`, as far as an answer may go.
    pub(super) fn of(found: ledger::Found, replica: &str) -> Self {
        let mut piece = Self {
            records: VecDeque::with_capacity(found.records.len()),
            more: found.more,
        };
        let mut bytes = 0;
        for (place, entry) in found.records {
            let json = entry.to_json_of(replica);
            bytes += json.len();
            if bytes > ANSWER && !piece.records.is_empty() {
                piece.more = true;
                break;
            }
            piece.records.push_back(Record {
                json,
                time_ms: unix_ms(entry.time),
                place,
            });
        }
        piece
    }
}

/// How far a search is in one ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Position {
    /// Nothing of it was shown.
    Begin,
    /// This was shown last.
    After(Place),
    /// All of it was shown.
    Over,
    /// It has not answered, and is left out from then on: what it has may be newer than what was
    /// shown since.
    Missing,
}

/// How far a search is, by the names of the replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Positions(pub(super) BTreeMap<String, Position>);

impl Positions {
    /// What [`Positions::token`] has written. No name has one of its signs.
    pub(super) fn parse(token: &str) -> Result<Self, ledger::Error> {
        let parts = token.split(';').map(|part| {
            let (name, position) = part.split_once('=').ok_or(ledger::Error::Token)?;
            let position = match position {
                "" => Position::Begin,
                "over" => Position::Over,
                "missing" => Position::Missing,
                place => Position::After(place.parse()?),
            };
            Ok((name.to_owned(), position))
        });
        parts.collect::<Result<_, _>>().map(Self)
    }

    /// Where the next page goes on; nothing if there is none.
    pub(super) fn token(&self) -> Option<String> {
        let goes_on = |it: &Position| matches!(it, Position::Begin | Position::After(_));
        self.0.values().any(goes_on).then(|| {
            let parts = self.0.iter().map(|(name, position)| match position {
                Position::Begin => format!("{name}="),
                Position::After(place) => format!("{name}={place}"),
                Position::Over => format!("{name}=over"),
                Position::Missing => format!("{name}=missing"),
            });
            parts.collect::<Vec<_>>().join(";")
        })
    }
}

/// The newest `size` of all records, or as many as an answer may have. `positions` move on.
pub(super) fn merge(
    mut pieces: BTreeMap<String, Piece>,
    positions: &mut Positions,
    size: usize,
) -> Vec<String> {
    let mut merged = Vec::new();
    let mut bytes = 0;
    // Whoever has more than it has said may have the next one.
    while !pieces.values().any(|it| it.more && it.records.is_empty()) {
        let next = pieces
            .iter_mut()
            .filter(|(_, piece)| !piece.records.is_empty())
            .max_by_key(|(name, piece)| (piece.records[0].time_ms, Reverse(name.as_str())));
        let Some((name, piece)) = next else { break };
        bytes += piece.records[0].json.len();
        if merged.len() == size || (bytes > ANSWER && !merged.is_empty()) {
            break;
        }
        if let Some(record) = piece.records.pop_front() {
            positions
                .0
                .insert(name.clone(), Position::After(record.place));
            merged.push(record.json);
        }
    }
    for (name, piece) in pieces {
        if piece.records.is_empty() && !piece.more {
            positions.0.insert(name, Position::Over);
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn place(offset: usize) -> Place {
        format!("1.{offset}").parse().expect("a place")
    }

    /// A ledger with records of these times, newest first; each is called by its replica and number.
    fn ledger(name: &str, times: &[i64]) -> Vec<Record> {
        let records = times.iter().enumerate().map(|(number, time_ms)| Record {
            json: format!("{name}{number}"),
            time_ms: *time_ms,
            // The newest stands last.
            place: place(times.len() - number),
        });
        records.collect()
    }

    /// What a ledger answers: at most `most` records behind the position.
    fn answer(ledger: &[Record], position: Position, most: usize) -> Piece {
        let left: Vec<_> = ledger
            .iter()
            .filter(|record| match position {
                Position::Begin => true,
                Position::After(place) => record.place < place,
                Position::Over | Position::Missing => false,
            })
            .cloned()
            .collect();
        Piece {
            more: left.len() > most,
            records: left.into_iter().take(most).collect(),
        }
    }

    /// All pages of a search.
    fn pages(
        ledgers: &BTreeMap<String, Vec<Record>>,
        size: usize,
        most: usize,
    ) -> Vec<Vec<String>> {
        let begin = ledgers.keys().map(|name| (name.clone(), Position::Begin));
        let mut positions = Positions(begin.collect());
        let mut pages = Vec::new();
        loop {
            let pieces = ledgers.iter().map(|(name, ledger)| {
                let position = positions.0[name];
                (name.clone(), answer(ledger, position, most))
            });
            let page = merge(pieces.collect(), &mut positions, size);
            pages.push(page);
            match positions.token() {
                Some(token) => positions = Positions::parse(&token).expect("its own token"),
                None => return pages,
            }
        }
    }

    fn ledgers(of: &[(&str, &[i64])]) -> BTreeMap<String, Vec<Record>> {
        let named = of.iter();
        named
            .map(|(name, times)| ((*name).to_owned(), ledger(name, times)))
            .collect()
    }

    #[test]
    fn records_of_all_come_newest_first_and_of_the_same_moment_by_name() {
        let ledgers = ledgers(&[("a", &[9, 5, 5]), ("b", &[7, 5]), ("c", &[])]);
        let shown = pages(&ledgers, 10, 10);
        assert_eq!(shown, [["a0", "b0", "a1", "a2", "b1"]]);
        let shown = pages(&ledgers, 2, 2);
        assert_eq!(shown, [vec!["a0", "b0"], vec!["a1", "a2"], vec!["b1"]]);
    }

    #[test]
    fn a_ledger_keeps_its_order_though_its_clock_was_set_back() {
        let ledgers = ledgers(&[("a", &[3, 8, 2]), ("b", &[5])]);
        assert_eq!(pages(&ledgers, 10, 10), [["b0", "a0", "a1", "a2"]]);
    }

    #[test]
    fn nothing_is_shown_behind_what_a_replica_may_have_and_had_no_room_for() {
        let ledgers = ledgers(&[("a", &[9, 8, 7]), ("b", &[1])]);
        let shown = pages(&ledgers, 10, 1);
        assert_eq!(shown, [vec!["a0"], vec!["a1"], vec!["a2", "b0"]]);
    }

    #[test]
    fn a_page_has_as_many_bytes_as_an_answer_may_or_one_record() {
        let large = |name: &str| {
            let mut ledger = ledger(name, &[2, 1]);
            for record in &mut ledger {
                record.json = "x".repeat(ANSWER / 2 + 1);
            }
            ledger
        };
        let ledgers = BTreeMap::from([("a".to_owned(), large("a")), ("b".to_owned(), large("b"))]);
        let shown = pages(&ledgers, 10, 10);
        assert!(shown.iter().all(|page| page.len() == 1), "{}", shown.len());
        assert_eq!(shown.len(), 4);
    }

    #[test]
    fn who_was_missing_stays_so_on_every_later_page() {
        let token = "a=1.7;b=missing;c=over;d=";
        let positions = Positions::parse(token).expect("a token");
        assert_eq!(positions.0["b"], Position::Missing);
        assert_eq!(positions.token().as_deref(), Some(token));
        for over in ["b=missing", "b=missing;c=over"] {
            let positions = Positions::parse(over).expect("a token");
            assert_eq!(positions.token(), None);
        }
        for wrong in ["", "1.7", "a", "a=1", "a=1.7;", "a=x.y"] {
            assert!(Positions::parse(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn every_record_is_on_one_page_whatever_fits_on_one(
            times in prop::collection::vec(prop::collection::vec(0..20_i64, 0..9), 1..5),
            size in 1..7_usize,
            most in 1..7_usize,
        ) {
            let ledgers: BTreeMap<_, _> = times
                .iter()
                .enumerate()
                .map(|(at, times)| {
                    let mut times = times.clone();
                    times.sort_by_key(|time| Reverse(*time));
                    let name = format!("ca-{at}-");
                    (name.clone(), ledger(&name, &times))
                })
                .collect();
            let shown = pages(&ledgers, size, most);
            prop_assert!(shown.iter().all(|page| page.len() <= size));
            let mut all: Vec<_> = ledgers.values().flatten().collect();
            // Stable: of one moment by name, and in its order.
            all.sort_by_key(|record| Reverse(record.time_ms));
            let all: Vec<_> = all.into_iter().map(|record| record.json.clone()).collect();
            prop_assert_eq!(shown.concat(), all);
        }
    }
}
