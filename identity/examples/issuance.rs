//! What issuance costs beyond the bare cryptography: run with
//! `cargo run --release -p arx-identity --example issuance`.
//!
//! The raw limit is verifying a request and signing its bytes; everything Arx adds to
//! that (reading the request, building the certificate, parsing and checking what was
//! signed) is the difference.

use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant, SystemTime};

use arx_identity::profile::{Issuer, Leaf, Validity, intermediate, leaf, root};
use arx_identity::{KeyAlgorithm, KeyPolicy, PrivateKey, SpiffeId, TrustDomain, VerifiedCsr};

const ROUNDS: u32 = 2_000;
const REPETITIONS: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let trust_domain = TrustDomain::parse("example.org")?;
    let id = SpiffeId::new(&trust_domain, "/ns/default/sa/web")?;
    let day = Duration::from_secs(24 * 3600);

    let root_key = PrivateKey::generate(KeyAlgorithm::EcdsaP256)?;
    let unsigned = root(
        root_key.public_key(),
        &trust_domain,
        Validity::authority(now, 300 * day),
    )?;
    let signature = root_key.sign(unsigned.to_be_signed())?;
    let root = Issuer::new(&unsigned.complete(&signature)?)?;
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256)?;
    let unsigned = intermediate(
        &root,
        key.public_key(),
        &trust_domain,
        "issuing",
        Validity::authority(now, 7 * day),
        0,
    )?;
    let signature = root_key.sign(unsigned.to_be_signed())?;
    let issuer = Issuer::new(&unsigned.complete(&signature)?)?;

    let csr = PrivateKey::generate(KeyAlgorithm::EcdsaP256)?.create_csr()?;
    let policy = KeyPolicy::default();
    let public_key = VerifiedCsr::verify(&csr, &policy)?.public_key().clone();
    let content = Leaf {
        public_key: &public_key,
        id: &id,
        dns_names: &[],
        validity: Validity::leaf(&issuer, now, day),
        revocable: false,
    };
    let signed = leaf(&issuer, &content)?;
    let signature = key.sign(signed.to_be_signed())?;

    println!("microseconds each, best of {REPETITIONS} x {ROUNDS}:");
    let verify = best(|| VerifiedCsr::verify(&csr, &policy).is_ok());
    let sign = best(|| key.sign(signed.to_be_signed()).is_ok());
    let build = best(|| leaf(&issuer, &content).is_ok());
    let check = best(|| signed.clone().complete(&signature).is_ok());
    let whole = best(|| {
        let csr = VerifiedCsr::verify(&csr, &policy).expect("a good request");
        let content = Leaf {
            public_key: csr.public_key(),
            ..content
        };
        let unsigned = leaf(&issuer, &content).expect("within the profile");
        let signature = key.sign(unsigned.to_be_signed()).expect("a signature");
        unsigned.complete(&signature).is_ok()
    });
    println!("  read and verify the request {verify:7.2}");
    println!("  sign                        {sign:7.2}");
    println!("  build the leaf              {build:7.2}");
    println!("  complete: parse and check   {check:7.2}");
    println!("  all of it, in one loop      {whole:7.2}");
    println!(
        "  above verify + sign         {:7.2}",
        whole - verify - sign
    );
    Ok(())
}

/// The least mean time of one call, in microseconds.
fn best(mut call: impl FnMut() -> bool) -> f64 {
    (0..REPETITIONS)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..ROUNDS {
                assert!(black_box(call()), "the measured call fails");
            }
            start.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS)
        })
        .fold(f64::INFINITY, f64::min)
}
