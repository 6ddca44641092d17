//! A rotation in a world of its own: the real machines of the authority, of agents and of
//! secret discovery, on a network, disks and clocks that fail, under an observer who sees
//! everything. Nothing waits: a world of hours is over in milliseconds, and its seed is all
//! that it takes to see it again.

pub mod authority;
pub mod clock;
pub mod fault;
pub mod node;
pub mod observer;
pub mod pool;
pub mod proxy;
pub mod queue;
pub mod tally;
pub mod world;

pub use fault::Fault;
pub use tally::Tally;
pub use world::{Broken, Ended};

use arx_node_agent::simulation::Setup;
use pool::Pool;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Roots that a world can have, one after the other.
const ROOTS: usize = 12;

/// A token that says to be valid until 2033, for a configuration that wants one.
const TOKEN: &str = "e30.eyJpc3MiOiJrOHMiLCJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQ6YTpiIiwiZXhwIjoyMDAwMDAwMDAwfQ.c2ln";

/// What worlds are made of.
pub struct Worlds {
    pool: Pool,
    setup: Setup,
}

impl Worlds {
    /// # Errors
    /// If keys cannot be made.
    pub fn new() -> anyhow::Result<Self> {
        let pool = Pool::new(ROOTS, 2)?;
        let folder = tempfile::tempdir()?;
        let path = folder.path().display();
        std::fs::write(folder.path().join("bundle.pem"), pool.root(0).pem())?;
        std::fs::write(folder.path().join("token"), TOKEN)?;
        let config = format!(
            r#"trust_domain = "example.org"
cluster = "c1"
node = "n"
[authority]
address = "127.0.0.1:8443"
bundle_file = "{path}/bundle.pem"
token_file = "{path}/token"
[socket]
path = "{path}/sds.sock"
[state]
directory = "{path}"
cache_key_file = "{path}/key"
[attestation]
attestors = ["local"]
"#
        );
        let setup = Setup::new(&config, pool.key()).map_err(|error| anyhow::anyhow!("{error}"))?;
        Ok(Self { pool, setup })
    }

    /// Lives through the world of a seed.
    ///
    /// # Errors
    /// What broke a promise.
    pub fn run(&mut self, seed: u64, fault: Option<Fault>, traced: bool) -> Result<Ended, Broken> {
        let broken = |what: String| Broken {
            what,
            at: 0,
            trace: Vec::new(),
        };
        let run = || {
            let world = world::World::new(seed, fault, traced, &mut self.pool, &self.setup);
            world.map_err(|error| broken(format!("{error:#}")))?.run()
        };
        catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
            let said = panic.downcast_ref::<String>().cloned();
            let said = said.or_else(|| panic.downcast_ref::<&str>().map(|it| (*it).to_owned()));
            Err(broken(format!("panic: {}", said.unwrap_or_default())))
        })
    }
}
