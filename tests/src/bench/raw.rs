//! Raw limits: what must be done in any case, and nothing else, in a bare loop. Of issuance,
//! verifying a CSR and signing a leaf's bytes; of messages, reading them off a socket.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use arx_identity::profile::{self, Issuer, Leaf, Validity};
use arx_identity::{KeyAlgorithm, KeyPolicy, PrivateKey, SpiffeId, TrustDomain, VerifiedCsr};
use bytes::Bytes;

use super::client::Client;
use super::cpu;
use crate::mesh::TRUST_DOMAIN;
use crate::node::requests;
use crate::token_issuer::now;

/// Requests that the loop goes round, and pairs between two looks at the clock. Verifying
/// branches by the numbers that it works on, and one request again and again would be
/// foretold by the processor as no authority's work is.
const ROUND: u32 = 200;

/// What the loop works on.
pub(crate) struct Raw {
    key: PrivateKey,
    message: Vec<u8>,
    requests: Vec<Bytes>,
    policy: KeyPolicy,
}

impl Raw {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let trust_domain = TrustDomain::parse(TRUST_DOMAIN)?;
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256)?;
        let validity = Validity::authority(now(), Duration::from_secs(86_400));
        let root = profile::root(key.public_key(), &trust_domain, validity)?;
        let signature = key.sign(root.to_be_signed())?;
        let issuer = Issuer::new(&root.complete(&signature)?)?;
        let leaf = PrivateKey::generate(KeyAlgorithm::EcdsaP256)?;
        let content = Leaf {
            public_key: leaf.public_key(),
            id: &SpiffeId::new(&trust_domain, "/ns/default/sa/web")?,
            dns_names: &[],
            validity: Validity::leaf(&issuer, now(), Duration::from_secs(3600)),
            revocable: false,
        };
        Ok(Self {
            message: profile::leaf(&issuer, &content)?.to_be_signed().to_vec(),
            requests: requests(ROUND as usize)?,
            key,
            policy: KeyPolicy::default(),
        })
    }

    /// Pairs per second of CPU, while a process that does what a client does has the
    /// other core.
    pub(crate) async fn measure(&self, lasting: Duration) -> anyhow::Result<f64> {
        let mut load = Client::start(&super::client::Role::Load).await?;
        let outcome = self.bare_loop(lasting);
        load.tell("stop").await?;
        outcome
    }

    fn bare_loop(&self, lasting: Duration) -> anyhow::Result<f64> {
        let (start, until) = (cpu::own_thread()?, Instant::now() + lasting);
        let mut pairs = 0;
        while Instant::now() < until {
            for request in &self.requests {
                let csr = VerifiedCsr::verify(request, &self.policy).context("a good CSR")?;
                std::hint::black_box(&csr);
                std::hint::black_box(self.key.sign(&self.message)?);
            }
            pairs += ROUND;
        }
        let used = cpu::own_thread()?.saturating_sub(start);
        Ok(f64::from(pairs) / used.as_secs_f64())
    }
}

/// CPU time that it takes to read `count` messages of `length` bytes off a Unix socket, in
/// reads as large as the agent's.
pub(crate) fn receive(count: usize, length: usize) -> anyhow::Result<Duration> {
    let (mut near, mut far) = UnixStream::pair()?;
    let message = vec![7; length];
    let sender = thread::spawn(move || (0..count).try_for_each(|_| far.write_all(&message)));
    let mut buffer = vec![0; 32 * 1024];
    let start = cpu::own_thread()?;
    while near.read(&mut buffer)? > 0 {
        std::hint::black_box(&buffer);
    }
    let used = cpu::own_thread()?.saturating_sub(start);
    sender.join().expect("the sender does not panic")?;
    Ok(used)
}
