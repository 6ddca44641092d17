//! The CSIDriver object (storage.k8s.io/v1), by which kubelets know what the agents' pod sockets
//! need of them.

use http::StatusCode;
use k8s_openapi::api::storage::v1::{CSIDriver, CSIDriverSpec};

use super::Findings;
use super::ask::Api;

pub(super) async fn look(api: &Api, name: &str, audiences: &[String], findings: &mut Findings) {
    let test = format!("the CSIDriver {name} is as agents need it");
    let path = format!("/apis/storage.k8s.io/v1/csidrivers/{name}");
    let answer = match api.get(&path).await {
        Ok(answer) => answer,
        Err(why) => return findings.not_known(test, &why),
    };
    match answer.status {
        StatusCode::NOT_FOUND => {
            let wrong = "there is none: kubelets mount no volume of it; apply the chart's or deploy/manifests', or correct cluster.csi_driver";
            findings.test(test, Some(wrong.to_owned()));
        }
        // Told with the rights.
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            findings.not_known(test, "the authority may not see it");
        }
        _ => match answer.json::<CSIDriver>() {
            Ok(driver) => {
                let wrong = wrong(&driver.spec, audiences);
                let wrong = (!wrong.is_empty())
                    .then(|| format!("{}; set what the chart sets", wrong.join("; ")));
                findings.test(test, wrong);
            }
            Err(why) => findings.not_known(test, &why),
        },
    }
}

/// What is not as it has to be, and what comes of it.
fn wrong(spec: &CSIDriverSpec, audiences: &[String]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut add = |is_wrong: bool, what: &str| {
        if is_wrong {
            wrong.push(what.to_owned());
        }
    };
    add(
        spec.attach_required != Some(false),
        "attachRequired is not false: volumes wait for an attachment that nobody makes",
    );
    add(
        spec.pod_info_on_mount != Some(true),
        "podInfoOnMount is not true: agents are not told which pod a volume is for, and refuse it",
    );
    add(
        spec.requires_republish != Some(true),
        "requiresRepublish is not true: agents get no fresh token, and a pod's identity ends with its first",
    );
    let modes = spec.volume_lifecycle_modes.as_deref().unwrap_or_default();
    add(
        !modes.iter().any(|mode| mode == "Ephemeral"),
        "volumeLifecycleModes has no Ephemeral: kubelets refuse volumes that pods describe",
    );
    add(
        spec.fs_group_policy.as_deref() == Some("File"),
        "fsGroupPolicy is File: kubelets want to change the owner of what they can only read",
    );
    let requested = spec.token_requests.as_deref().unwrap_or_default();
    if !requested.iter().any(|it| audiences.contains(&it.audience)) {
        let ours = audiences.join("\", \"");
        let them: Vec<_> = requested
            .iter()
            .map(|it| format!("{:?}", it.audience))
            .collect();
        let them = match them.len() {
            0 => "is empty".to_owned(),
            _ => format!("names {}", them.join(", ")),
        };
        wrong.push(format!(
            "tokenRequests {them} and not \"{ours}\": agents get no token that counts here"
        ));
    }
    wrong
}
