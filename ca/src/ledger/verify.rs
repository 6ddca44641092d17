//! Verifying the chain: every hash of every record, from the first segment that is there.

use std::path::Path;

use super::codec::{self, Content};
use super::error::{Error, Problem};
use super::frame::Chain;
use super::record::{Event, Pruned};
use super::segment::{self, Header};
use super::walk::{Step, Walk, acknowledged_after};
use super::{Ledger, Torn, open};

/// What verifying has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Whole records.
    pub records: u64,
    /// Segments.
    pub segments: u32,
    /// The hash that everything is chained to.
    pub head: [u8; 32],
    /// Empty if the chain holds.
    pub problems: Vec<Problem>,
    /// What a crash has left at the end, cut by the next start.
    pub torn: Option<Torn>,
}

/// Problems that are listed; more would only repeat that the disk is bad.
const MOST: usize = 1000;

impl Ledger {
    /// Verifies everything that is durable now. Blocks.
    ///
    /// # Errors
    /// What keeps a segment from being read. What is wrong with what was read stands in the
    /// report.
    pub fn verify(&self) -> Result<Report, Error> {
        let (mut segments, domain) = {
            let segments = self.0.commits.segments();
            (segments.durable(), segments.trust_domain.clone())
        };
        verify(&self.0.directory, &mut segments, &domain)
    }

    /// Verifies a directory that no process has open. Blocks.
    ///
    /// # Errors
    /// As [`Ledger::verify`].
    pub fn verify_directory(directory: &Path, trust_domain: &str) -> Result<Report, Error> {
        let mut segments = Vec::new();
        for number in segment::list(directory)? {
            let (file, path) = segment::open(directory, number, false)?;
            segments.push((number, segment::length(&file, &path)?));
        }
        verify(directory, &mut segments, trust_domain)
    }
}

fn verify(
    directory: &Path,
    segments: &mut [(u32, u64)],
    trust_domain: &str,
) -> Result<Report, Error> {
    let mut report = Report {
        records: 0,
        segments: 0,
        head: [0; 32],
        problems: Vec::new(),
        torn: None,
    };
    // The chain and the number of the next record, as the segment before leaves them.
    let mut expected: Option<(Chain, u64)> = None;
    let mut oldest: Option<Header> = None;
    let mut pruned: Option<Pruned> = None;
    // Pruned while we were reading: the record that says so is behind what we read.
    let mut vanished = false;
    let newest = segments.last().map_or(0, |(number, _)| *number);
    for (number, length) in segments.iter() {
        let (file, path) = match segment::open(directory, *number, false) {
            Err(_) if segment::is_pruned(directory, *number) => {
                expected = None;
                vanished = true;
                continue;
            }
            opened => opened?,
        };
        let header = open::header(&file, &path, trust_domain)?;
        if expected.is_none() {
            oldest = Some(header.clone());
        }
        let mut wrong = Wrong {
            path: &path,
            report: &mut report,
        };
        if let Some((chain, next)) = expected {
            if header.previous != chain {
                wrong.at(0, "the segment does not follow the one before it");
            }
            if header.first != next {
                wrong.at(
                    0,
                    "records are missing between this segment and the one before it",
                );
            }
        }
        let last = *number == newest;
        expected = Some(one(file, &header, *length, last, &mut pruned, &mut wrong)?);
        report.segments += 1;
    }
    if let Some((chain, _)) = expected {
        report.head = chain;
    }
    if let Some(oldest) = oldest.filter(|_| !vanished)
        && let Some(what) = missing_before(&oldest, pruned.as_ref())
    {
        let mut wrong = Wrong {
            path: &segment::path(directory, oldest.number),
            report: &mut report,
        };
        wrong.at(0, what);
    }
    Ok(report)
}

/// Pruning records what it is about to remove, and may be interrupted while it does. What
/// is gone without such a record was not removed by us.
fn missing_before(oldest: &Header, pruned: Option<&Pruned>) -> Option<&'static str> {
    if oldest.number == 1 {
        return None;
    }
    match pruned {
        Some(pruned) if pruned.first_segment == oldest.number => (pruned.hash != oldest.previous)
            .then_some("the segment does not follow those that were pruned before it"),
        Some(pruned) if pruned.first_segment > oldest.number => None,
        _ => Some(
            "the segments before this one are missing, and no record says that they were pruned",
        ),
    }
}

struct Wrong<'r> {
    path: &'r Path,
    report: &'r mut Report,
}

impl Wrong<'_> {
    fn at(&mut self, offset: u64, what: &str) {
        if self.report.problems.len() < MOST {
            let problem = Problem {
                file: self.path.to_owned(),
                offset,
                what: what.to_owned(),
            };
            self.report.problems.push(problem);
        }
    }
}

fn one(
    file: std::fs::File,
    header: &Header,
    length: u64,
    newest: bool,
    pruned: &mut Option<Pruned>,
    wrong: &mut Wrong<'_>,
) -> Result<(Chain, u64), Error> {
    let path = wrong.path.to_owned();
    let read = || Error::io("read", &path);
    let mut walk = Walk::new(file, header.length(), length);
    let mut next = header.first;
    loop {
        match walk.step().map_err(read())? {
            Step::Record(item) => {
                if item.frame.index != next {
                    wrong.at(item.offset, "records are missing before this one");
                }
                next = item.frame.index.saturating_add(1);
                wrong.report.records += 1;
                if codec::is_pruned(item.body)
                    && let Content::Known(Event::Pruned(found)) = codec::decode(item.body)
                {
                    *pruned = Some(found);
                }
            }
            Step::End => return Ok((walk.chain().map_err(read())?, next)),
            Step::Broken { offset, what } => {
                let chain = walk.chain().map_err(read())?;
                if newest && !acknowledged_after(&mut walk, offset).map_err(read())? {
                    let bytes = length - offset;
                    wrong.report.torn = Some(Torn {
                        file: path,
                        offset,
                        bytes,
                    });
                    return Ok((chain, next));
                }
                wrong.at(offset, what);
                // Where it stopped looking, a record stands; it is not counted twice.
                walk.rewind(offset);
                walk.skip().map_err(read())?;
            }
        }
    }
}
