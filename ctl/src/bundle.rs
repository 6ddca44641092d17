//! `arx bundle`: the roots of the trust domain.

use std::path::Path;

use arx_identity::{Certificate, Sequence, TrustBundle, TrustDomain};
use arx_proto::admin::v1::GetBundleRequest;
use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use crate::client::{Failure, connect};
use crate::output::{Output, Style, columns, hex, instant_json, unix_ms};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the roots that are trusted now.
    Show,
    /// Print the bundle for other programs.
    Export {
        /// In which form.
        #[arg(long, value_enum, default_value_t = Form::Pem)]
        format: Form,
    },
}

/// Forms of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// Certificates in PEM, one after the other.
    Pem,
    /// Certificates in DER, one after the other, with nothing between.
    Der,
    /// A JWK set by the SPIFFE Trust Domain and Bundle standard.
    Spiffe,
}

pub(crate) async fn run(socket: &Path, style: Style, command: Command) -> Result<Output, Failure> {
    let answer = connect(socket)
        .await?
        .get_bundle(GetBundleRequest {})
        .await?
        .into_inner();
    let failed = |error: &dyn std::fmt::Display| {
        Failure::Failed(format!("the authority's bundle can't be read: {error}"))
    };
    let trust_domain = TrustDomain::parse(&answer.trust_domain).map_err(|error| failed(&error))?;
    let roots: Result<Vec<_>, _> = answer
        .roots
        .iter()
        .map(|der| Certificate::from_der(der))
        .collect();
    let sequence = Sequence {
        epoch: answer.epoch,
        number: answer.number,
    };
    let bundle = TrustBundle::new(
        trust_domain,
        sequence,
        roots.map_err(|error| failed(&error))?,
    );
    let bundle = bundle.map_err(|error| failed(&error))?;
    Ok(match command {
        Command::Export { format: Form::Pem } => {
            let roots = active_first(&bundle, &answer.active_key_id);
            Output::raw(roots.map(Certificate::pem).collect::<String>())
        }
        Command::Export { format: Form::Der } => {
            let roots = active_first(&bundle, &answer.active_key_id);
            Output::raw(roots.map(Certificate::der).collect::<Vec<_>>().concat())
        }
        // The bundle endpoint has a counter of its own; within one epoch the number is one.
        Command::Export {
            format: Form::Spiffe,
        } => Output::raw(format!("{}\n", bundle.spiffe_json(answer.number, None))),
        Command::Show if style.json => Output::json(&to_json(&bundle)),
        Command::Show => Output::text(&to_text(&bundle, style)),
    })
}

/// The roots with the one first that signs: some who read a file take but one.
fn active_first<'b>(
    bundle: &'b TrustBundle,
    active: &[u8],
) -> impl Iterator<Item = &'b Certificate> {
    let mut roots: Vec<_> = bundle.roots().iter().collect();
    let is_active = |root: &Certificate| {
        let name = root.subject_key_id();
        name.is_some_and(|name| name.as_bytes() == active)
    };
    roots.sort_by_key(|root| !is_active(root));
    roots.into_iter()
}

fn to_text(bundle: &TrustBundle, style: Style) -> String {
    let rows: Vec<_> = bundle
        .roots()
        .iter()
        .map(|root| {
            vec![
                root.subject().to_owned(),
                root.public_key().algorithm().to_string(),
                style.time(unix_ms(root.not_after())),
                hex(root.public_key().key_id().as_bytes()),
            ]
        })
        .collect();
    let roots = columns(&["ROOT", "KEY", "ENDS", "KEY ID"], &rows);
    format!(
        "trust domain  {}\nsequence      {}\nsha256        {}\n\n{roots}",
        bundle.trust_domain(),
        bundle.sequence(),
        hex(&bundle.sha256())
    )
}

fn to_json(bundle: &TrustBundle) -> Value {
    let roots: Vec<_> = bundle
        .roots()
        .iter()
        .map(|root| {
            json!({
                "subject": root.subject(), "serial": root.serial().to_string(),
                "key_algorithm": root.public_key().algorithm().to_string(),
                "key_id": hex(root.public_key().key_id().as_bytes()), "sha256": hex(&root.sha256()),
                "not_before": instant_json(unix_ms(root.not_before())), "not_after": instant_json(unix_ms(root.not_after())),
            })
        })
        .collect();
    json!({
        "trust_domain": bundle.trust_domain().as_str(), "sequence": bundle.sequence().to_string(),
        "sha256": hex(&bundle.sha256()), "roots": roots,
    })
}
