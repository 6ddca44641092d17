//! How much a client may ask for. Every bound holds for one stream or one message, so
//! that what a stream can cost is known before it is opened.

use std::time::Duration;

/// Largest request message in bytes. Envoy's first one has about 61 KB.
pub(crate) const MESSAGE: u32 = 1024 * 1024;

/// Names that one stream may be subscribed to, and entries of one list of names.
pub(crate) const NAMES: usize = 32;

/// Bytes of all these names together: more than two of the longest SPIFFE ids have.
pub(crate) const NAMES_LENGTH: usize = 4 * 1024;

/// Longest resource name in bytes: the longest SPIFFE id (SPIFFE-ID, 2.3).
pub(crate) const NAME: u32 = 2048;

/// Of any other text this many bytes are kept. Our own versions and nonces are shorter,
/// so a clipped one can match nothing.
pub(crate) const TEXT: u32 = 1024;

/// Responses of one stream whose answers are still awaited; with as many of them even a
/// name that is newly asked for waits. Of a client that never answers, the oldest is
/// forgotten: it counts as neither accepted nor refused.
pub(crate) const UNANSWERED: usize = 8;

/// How long a new version waits for the answer to the one before it, on a stream that has
/// never answered anything: its client may not answer at all, and needs renewals too.
/// Where there was an answer once, the next one is waited for without end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// How long a fetch waits for secrets that are not ready.
pub(crate) const FETCH: Duration = Duration::from_secs(15);

/// Steps of one stream before other streams of the same thread get their turn.
pub(crate) const STEPS: u32 = 32;
