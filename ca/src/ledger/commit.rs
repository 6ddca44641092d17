//! Appending: one thread gathers what comes in, writes it as one piece, makes it durable,
//! and only then lets those go on who wait.
//!
//! Nothing that was not made durable is left in the file: a commit that fails is cut off
//! again, and until the disk takes a trial, everything else is refused at once.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arx_identity::Sequence;
use tokio::sync::{oneshot, watch};

use super::codec::{self, Outline};
use super::error::{AppendError, Error, Pause};
use super::frame::{self, CHAIN, Chain};
use super::index::{self, Pairs};
use super::live::{Live, Place};
use super::record::{Event, MAX_KEY_ID, MAX_SERIAL, Record};
use super::segment::{self, Header};
use super::{MAX_RECORD, Status};

/// Records that may wait for the disk. At 10,000 a second it is two seconds' worth.
const QUEUE: usize = 20_000;
/// Bytes that may wait for the disk.
const QUEUE_BYTES: usize = 64 * 1024 * 1024;
/// Bytes of one commit, about.
const COMMIT: usize = 4 * 1024 * 1024;
/// Between trials of a disk that failed.
const TRIAL: Duration = Duration::from_secs(1);
/// What a trial writes: as much as a usual commit.
const TRIAL_BYTES: usize = 64 * 1024;

/// Where records were put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Number of the first of them among all that the ledger ever had.
    pub first: u64,
}

/// A record that is about to come.
pub struct Announced(Arc<Shared>);

impl Drop for Announced {
    fn drop(&mut self) {
        if self.0.announced.fetch_sub(1, Ordering::AcqRel) == 1 {
            // Under the lock, or the thread could miss it between looking and waiting.
            let queue = self.0.lock();
            if queue.jobs.len() >= queue.expected {
                self.0.wake.notify_one();
            }
        }
    }
}

impl fmt::Debug for Announced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Announced")
    }
}

/// The side of those who append.
pub(super) struct Commits {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    queue: Mutex<Waiting>,
    wake: Condvar,
    announced: AtomicUsize,
    paused: watch::Sender<Option<Pause>>,
    segments: Mutex<Segments>,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    records: usize,
    bytes: usize,
    /// As many calls waited for the last commit, or came in while it was made. Those who
    /// ask for one certificate after the other are about to come again.
    expected: usize,
    closed: bool,
}

struct Job {
    bodies: Vec<Prepared>,
    done: oneshot::Sender<Result<Receipt, AppendError>>,
}

/// What is durable.
pub(super) struct Segments {
    pub(super) directory: PathBuf,
    pub(super) trust_domain: String,
    /// Sealed ones: number and length.
    pub(super) sealed: Vec<(u32, u64)>,
    pub(super) active: u32,
    /// Durable length of the newest.
    pub(super) length: u64,
    pub(super) pairs: Pairs,
    pub(super) records: u64,
    pub(super) head: Chain,
    /// The highest sequence that a sealed segment names.
    pub(super) sequence: (u64, u64),
}

impl Segments {
    /// All of them, the oldest first: number, and how much of it is durable.
    pub(super) fn durable(&self) -> Vec<(u32, u64)> {
        let mut all = self.sealed.clone();
        all.push((self.active, self.length));
        all
    }
}

/// The writing end, owned by the thread.
pub(super) struct Writer {
    pub(super) file: File,
    pub(super) live: Live,
    pub(super) segment_bytes: u64,
    pub(super) gather: Duration,
}

impl Commits {
    /// Starts the thread.
    pub(super) fn start(segments: Segments, writer: Writer) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            wake: Condvar::new(),
            announced: AtomicUsize::new(0),
            paused: watch::Sender::new(None),
            segments: Mutex::new(segments),
        });
        let own = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || writer.run(&own))?;
        Ok(Self {
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    pub(super) fn announce(&self) -> Announced {
        self.shared.announced.fetch_add(1, Ordering::AcqRel);
        Announced(Arc::clone(&self.shared))
    }

    /// Queues `records`; the future returns when they are durable.
    pub(super) fn queue(
        &self,
        records: Vec<Prepared>,
    ) -> Result<impl Future<Output = Result<Receipt, AppendError>> + Send + use<>, AppendError>
    {
        let outcome = self.enqueue(records)?;
        Ok(async move { outcome.await.unwrap_or(Err(AppendError::Closed)) })
    }

    fn enqueue(
        &self,
        bodies: Vec<Prepared>,
    ) -> Result<oneshot::Receiver<Result<Receipt, AppendError>>, AppendError> {
        if let Some(pause) = self.shared.paused.borrow().clone() {
            return Err(AppendError::Paused(pause));
        }
        let (done, outcome) = oneshot::channel();
        {
            let mut queue = self.shared.lock();
            if queue.closed {
                return Err(AppendError::Closed);
            }
            let bytes = size(&bodies);
            if queue.records + bodies.len() > QUEUE || queue.bytes + bytes > QUEUE_BYTES {
                return Err(AppendError::Busy);
            }
            queue.records += bodies.len();
            queue.bytes += bytes;
            queue.jobs.push_back(Job { bodies, done });
            // While more are gathered, the thread is woken when there are enough.
            if queue.jobs.len() == 1 {
                self.shared.wake.notify_one();
            }
        }
        Ok(outcome)
    }

    /// The same for a thread that may block.
    pub(super) fn append_blocking(&self, records: Vec<Record>) -> Result<Receipt, AppendError> {
        self.enqueue(prepare(records)?)?
            .blocking_recv()
            .unwrap_or(Err(AppendError::Closed))
    }

    pub(super) fn paused(&self) -> watch::Receiver<Option<Pause>> {
        self.shared.paused.subscribe()
    }

    pub(super) fn status(&self) -> Status {
        let segments = self.segments();
        Status {
            records: segments.records,
            segments: u32::try_from(segments.sealed.len())
                .unwrap_or(u32::MAX)
                .saturating_add(1),
            bytes: segments
                .sealed
                .iter()
                .map(|(_, length)| length)
                .sum::<u64>()
                + segments.length,
            head: segments.head,
        }
    }

    pub(super) fn sequence(&self) -> Option<Sequence> {
        let segments = self.segments();
        let (epoch, number) = segments.sequence.max(segments.pairs.summary.sequence);
        (epoch > 0).then_some(Sequence { epoch, number })
    }

    /// What is durable. Held only to look things up.
    pub(super) fn segments(&self) -> MutexGuard<'_, Segments> {
        self.shared.segments()
    }

    pub(super) fn close(&self) {
        {
            let mut queue = self.shared.lock();
            queue.closed = true;
            self.shared.wake.notify_one();
        }
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            let _panicked = thread.join();
        }
    }
}

impl Drop for Commits {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn segments(&self) -> MutexGuard<'_, Segments> {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next jobs, at least one; `None` if there will be no more. Waits for more of
    /// them while some are announced or expected, but not longer than `gather`: a call
    /// that is alone waits for nobody, and many share one commit.
    fn gather(&self, gather: Duration) -> Option<Vec<Job>> {
        let mut queue = self.lock();
        while queue.jobs.is_empty() {
            if queue.closed {
                return None;
            }
            queue = self
                .wake
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let until = Instant::now() + gather;
        while (self.announced.load(Ordering::Acquire) > 0 || queue.jobs.len() < queue.expected)
            && !queue.closed
            && queue.records < QUEUE / 2
        {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            queue = self
                .wake
                .wait_timeout(queue, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        let mut jobs = Vec::with_capacity(queue.jobs.len());
        let mut bytes = 0;
        while let Some(job) = queue.jobs.pop_front() {
            queue.records -= job.bodies.len();
            queue.bytes -= size(&job.bodies);
            bytes += size(&job.bodies);
            jobs.push(job);
            if bytes >= COMMIT {
                break;
            }
        }
        queue.expected = jobs.len();
        Some(jobs)
    }

    /// A commit was made: whoever came in meanwhile is in flight too.
    fn committed(&self) {
        let mut queue = self.lock();
        queue.expected += queue.jobs.len();
    }

    fn pause(&self, error: &io::Error) -> Pause {
        let pause = Pause::from(error);
        self.paused.send_replace(Some(pause.clone()));
        tracing::error!(
            code = "ARX-LEDGER-PAUSED",
            "nothing can be recorded, so nothing is issued: {pause}"
        );
        pause
    }
}

/// When the thread ends, whyever: nobody waits for it in vain.
struct Ended<'s>(&'s Shared);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.closed = true;
        queue.jobs.clear();
        drop(queue);
        if std::thread::panicking() {
            let error = io::Error::other("its thread has ended, restart the process");
            self.0.pause(&error);
        }
    }
}

impl Writer {
    fn run(mut self, shared: &Shared) {
        let _ended = Ended(shared);
        while let Some(jobs) = shared.gather(self.gather) {
            match self.commit(shared, &jobs) {
                Ok(first) => {
                    shared.committed();
                    answer(jobs, first);
                }
                Err(error) => {
                    let pause = shared.pause(&error);
                    for job in jobs {
                        let _gone = job.done.send(Err(AppendError::Paused(pause.clone())));
                    }
                    if !self.recover(shared) {
                        return;
                    }
                }
            }
        }
    }

    /// Writes the jobs as one piece. Answers the number of the first record.
    fn commit(&mut self, shared: &Shared, jobs: &[Job]) -> io::Result<u64> {
        if segment::is_removed(&self.file) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let full = shared.segments().length >= self.segment_bytes;
        if full {
            self.roll(shared)?;
        }
        let (length, first, chain) = {
            let segments = shared.segments();
            (segments.length, segments.records, segments.head)
        };
        let bodies = || jobs.iter().flat_map(|job| &job.bodies);
        let bytes: usize = bodies().map(|body| frame::length(body.0.len())).sum();
        let mut commit = Vec::with_capacity(CHAIN + bytes);
        commit.extend_from_slice(&chain);
        let mut offsets = Vec::new();
        for (number, body) in bodies().enumerate() {
            offsets.push(length + (commit.len() - CHAIN) as u64);
            frame::push(&mut commit, first + number as u64, &body.0);
        }
        self.file.write_all_at(&commit[CHAIN..], length)?;
        self.file.sync_data()?;

        let mut segments = shared.segments();
        segments.length += (commit.len() - CHAIN) as u64;
        segments.records += offsets.len() as u64;
        segments
            .head
            .copy_from_slice(&commit[commit.len() - CHAIN..]);
        let active = segments.active;
        let outlines: Vec<Outline<'_>> = bodies().map(|body| codec::outline(&body.0)).collect();
        for (outline, offset) in outlines.iter().zip(&offsets) {
            segments.pairs.add(outline, *offset);
        }
        drop(segments);
        let places = offsets.into_iter().map(|offset| Place::new(active, offset));
        self.live.add_all(outlines.into_iter().zip(places));
        Ok(first)
    }

    /// Seals the newest segment and begins the next.
    fn roll(&mut self, shared: &Shared) -> io::Result<()> {
        let (directory, header, length) = {
            let segments = shared.segments();
            let header = Header {
                number: segments.active + 1,
                first: segments.records,
                previous: segments.head,
                trust_domain: segments.trust_domain.clone(),
            };
            (segments.directory.clone(), header, segments.length)
        };
        let made = segment::create(&directory, &header).map_err(|error| match error {
            Error::Io { source, .. } => source,
            other => io::Error::other(other.to_string()),
        });
        let (file, head) = made?;
        let (sealed, pairs) = {
            let mut segments = shared.segments();
            let number = segments.active;
            segments.sealed.push((number, length));
            segments.active = header.number;
            segments.length = header.length();
            segments.head = head;
            let pairs = std::mem::take(&mut segments.pairs);
            segments.sequence = segments.sequence.max(pairs.summary.sequence);
            (segment::path(&directory, number), pairs)
        };
        self.file = file;
        // Nobody should wait for it, and it can be made again at any time.
        let write = move || index::write(pairs, &sealed, length);
        let _none = std::thread::Builder::new()
            .name("ledger index".to_owned())
            .spawn(write);
        Ok(())
    }

    /// Cuts off what was not made durable, and tries until the disk takes something again.
    /// False if the ledger is closed meanwhile.
    fn recover(&mut self, shared: &Shared) -> bool {
        loop {
            let path = {
                let segments = shared.segments();
                segment::path(&segments.directory, segments.active)
            };
            match self.trial(shared, &path) {
                Ok(()) => {
                    shared.paused.send_replace(None);
                    tracing::info!(code = "ARX-LEDGER-RESUMED", "the ledger goes on");
                    return true;
                }
                Err(error) => {
                    // What keeps it paused may have become something else.
                    let pause = Pause::from(&error);
                    shared.paused.send_if_modified(|shown| {
                        let changed = shown.as_ref() != Some(&pause);
                        *shown = Some(pause);
                        changed
                    });
                    tracing::debug!(%error, "the ledger is still paused");
                }
            }
            let mut queue = shared.lock();
            let until = Instant::now() + TRIAL;
            loop {
                // Whoever came in before the pause was seen gets its answer now.
                let pause = shared.paused.borrow().clone();
                queue.records = 0;
                queue.bytes = 0;
                for job in queue.jobs.drain(..) {
                    let error = pause.clone().map_or(AppendError::Busy, AppendError::Paused);
                    let _gone = job.done.send(Err(error));
                }
                if queue.closed {
                    return false;
                }
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                queue = shared
                    .wake
                    .wait_timeout(queue, left)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
            }
        }
    }

    /// After a failed sync the kernel may hold pages that never reach the disk, so the file
    /// is opened anew and cut to what was durable before.
    fn trial(&mut self, shared: &Shared, path: &Path) -> io::Result<()> {
        let (length, head) = {
            let segments = shared.segments();
            (segments.length, segments.head)
        };
        let file = File::options().read(true).write(true).open(path)?;
        let mut last = [0; CHAIN];
        let whole = file.read_exact_at(&mut last, length - CHAIN as u64);
        if whole.is_err() || last != head {
            // Somebody has put back an older copy, or another file. Cutting it to length
            // would fill it up with zeros.
            return Err(io::Error::other(format!(
                "{} does not hold all that was recorded, put back the right one",
                path.display()
            )));
        }
        file.set_len(length)?;
        let written = file
            .write_all_at(&[0; TRIAL_BYTES], length)
            .and_then(|()| file.sync_data());
        file.set_len(length)?;
        file.sync_all()?;
        written?;
        self.file = file;
        if length >= self.segment_bytes {
            // Or the next commit fails again at what this one has failed at.
            self.roll(shared)?;
        }
        Ok(())
    }
}

fn size(bodies: &[Prepared]) -> usize {
    bodies.iter().map(|body| body.0.len()).sum()
}

fn answer(jobs: Vec<Job>, mut first: u64) {
    for job in jobs {
        let receipt = Receipt { first };
        first += job.bodies.len() as u64;
        let _gone = job.done.send(Ok(receipt));
    }
}

/// A record as it goes to the disk. It is one piece, where the record itself is many.
#[derive(Clone, Debug)]
pub struct Prepared(Vec<u8>);

impl Record {
    /// Makes it ready to be appended.
    ///
    /// # Errors
    /// [`AppendError::TooLarge`] if something in it is longer than it may be.
    pub fn prepare(self) -> Result<Prepared, AppendError> {
        encode(self).map(Prepared)
    }
}

pub(super) fn prepare(records: Vec<Record>) -> Result<Vec<Prepared>, AppendError> {
    records.into_iter().map(Record::prepare).collect()
}

fn encode(record: Record) -> Result<Vec<u8>, AppendError> {
    if let Event::Issued(issued) = &record.event {
        let ids = [
            &issued.subject_key_id,
            &issued.issuer_key_id,
            &issued.root_key_id,
        ];
        for id in ids {
            check("a key identifier", id.len(), MAX_KEY_ID)?;
        }
    }
    for serial in record.event.serials() {
        check("a serial number", serial.len(), MAX_SERIAL)?;
    }
    let body = codec::encode(record);
    if body.len() > MAX_RECORD {
        return Err(AppendError::record_too_large(body.len()));
    }
    Ok(body)
}

fn check(what: &'static str, length: usize, most: usize) -> Result<(), AppendError> {
    if length > most {
        Err(AppendError::TooLarge { what, length, most })
    } else {
        Ok(())
    }
}
