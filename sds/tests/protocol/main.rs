//! Secret discovery over real HTTP/2, in one process.

mod client;
mod contract;
mod hostile;
mod secrets;
#[path = "../../src/testing.rs"]
mod testing;
