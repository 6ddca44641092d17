//! Changing the root of a trust domain without losing a connection, and proving it.
//!
//! A rotation is a document in the state store and a pure function over it, [`step`]. Whoever
//! drives it looks at the world, lets the function decide, stores the decision by
//! compare-and-swap, and only then acts; every act can be done twice. So a rotation that is cut
//! off anywhere goes on from its document.
//!
//! | phase | what has to be true | what opens the gate |
//! |---|---|---|
//! | Prepare | the new root exists and has test-signed | that |
//! | Distribute | the bundle has both roots | everybody has confirmed it |
//! | Activate | the new root is active, and this replica's intermediate and serving certificate stand under it | the same of every replica |
//! | Reissue | whoever holds a certificate under the old root is told to renew | nobody does any more |
//! | Retire | the bundle has the new root alone | everybody has confirmed it; then the old root and its key go |
//! | Withdraw | the bundle has the old root alone again | nothing: the new one never signed |
//! | Restore | the bundle has both roots again | everybody has confirmed it |
//! | Held | the same | the operator says how it goes on |
//!
//! A root that must not be trusted any more takes the same way, but no gate waits for long and
//! nothing turns round: whoever is in the way is left behind, by name.
//!
//! Turning round in Activate or Reissue is the same machine with the roots exchanged, from
//! Activate on.

mod above;
mod alone;
mod crossing;
mod distrust;
mod driver;
mod facts;
mod files;
mod hints;
mod look;
mod outside;
mod rate;
mod renewal;
mod reports;
mod shown;
mod sight;
mod step;
mod terms;
mod time;

pub use self::above::{Above, Heard};
pub use self::driver::{Rotator, View};
pub use self::facts::{Facts, Obstacle, digest};
pub use self::hints::Hints;
pub use self::reports::gate;
pub use self::sight::{Seen, Sight};
pub use self::step::{
    Effect, Event, RotationError, Step, begin, begin_adoption, begin_cut_off, begin_distrust, step,
};
pub use self::terms::{Defaults, check, longest_window};

#[cfg(test)]
mod tests;
