//! `arx version`: which versions speak to each other.

use std::path::Path;

use arx_proto::admin::v1::StatusRequest;
use serde_json::json;

use crate::client::{Failure, connect};
use crate::output::{Output, Style};

pub(crate) async fn run(socket: &Path, style: Style) -> Result<Output, Failure> {
    let own = env!("CARGO_PKG_VERSION");
    let authority = match authority(socket).await {
        Ok(version) => Ok(version),
        // To be asked for a version is no reason to need an authority.
        Err(Failure::Unreachable(reason)) => Err(reason),
        Err(failure) => return Err(failure),
    };
    if style.json {
        return Ok(Output::json(
            &json!({"arx": own, "authority": authority.ok()}),
        ));
    }
    let authority = authority.unwrap_or_else(|reason| format!("not reached ({reason})"));
    Ok(Output::text(&format!(
        "arx        {own}\nauthority  {authority}\n"
    )))
}

async fn authority(socket: &Path) -> Result<String, Failure> {
    let status = connect(socket).await?.status(StatusRequest {}).await?;
    Ok(status.into_inner().version)
}
