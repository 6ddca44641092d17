//! Roots that are so short-lived that they renew by themselves while somebody looks.

use anyhow::{Context as _, ensure};
use arx_proto::admin::v1::{
    GetBundleRequest, ListRotationsRequest, Rotation, RotationStatusRequest,
};
use arx_tests::mesh::{Mesh, Options};
use arx_tests::pair::Pair;
use arx_tests::process::until;

/// Each root is replaced ten seconds after it was made, and has minutes for that.
fn short_lived() -> Options {
    Options {
        ttl: "10s".to_owned(),
        node_ttl: "10s".to_owned(),
        policy: "max_ttl = \"10s\"".to_owned(),
        roots: "root_ttl = \"300s\"\nroot_renewal_lead = \"290s\"\nintermediate_ttl = \"40s\"\n\
                serving_ttl = \"20s\""
            .to_owned(),
        authority: "[rotation]\nwindow = \"2s\"\ndwell = \"500ms\"".to_owned(),
        ..Options::default()
    }
}

async fn last(mesh: &Mesh) -> anyhow::Result<Option<Rotation>> {
    let request = RotationStatusRequest::default();
    let answer = mesh.admin().await?.rotation_status(request).await?;
    Ok(answer.into_inner().rotation)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn roots_renew_by_themselves_again_and_again_under_load_without_a_failed_request()
-> anyhow::Result<()> {
    let pair = Pair::start(short_lived()).await?;
    let load = pair.load();
    for number in 1..=3 {
        let (id, phases) = (format!("r{number}"), ["begun", "reissue", "done"]);
        for wanted in phases {
            until(&format!("{id} is {wanted}"), || async {
                let Some(last) = last(&pair.mesh).await?.filter(|last| last.id == id) else {
                    return Ok(false);
                };
                Ok(match wanted {
                    "begun" => true,
                    "reissue" => ["reissue", "retire", "done"].contains(&&*last.phase),
                    wanted => last.phase == wanted,
                })
            })
            .await
            .with_context(|| format!("{id} of renewals"))?;
        }
    }
    load.stop().await.without_failure()?;

    let mut admin = pair.mesh.admin().await?;
    let all = admin
        .list_rotations(ListRotationsRequest::default())
        .await?;
    let all = all.into_inner().rotations;
    ensure!(all.len() == 3, "{all:?}");
    for rotation in &all {
        ensure!(rotation.started_by == "the authority", "{rotation:?}");
        ensure!(
            rotation.reason.starts_with("root ends at 2"),
            "{rotation:?}"
        );
        ensure!(rotation.forced.is_empty(), "{rotation:?}");
    }
    for (newer, older) in all.iter().zip(&all[1..]) {
        ensure!(
            newer.from == older.to,
            "each begins where the one before ended"
        );
    }
    let bundle = admin.get_bundle(GetBundleRequest {}).await?.into_inner();
    ensure!(bundle.roots.len() == 1);
    for proxy in [&pair.web, &pair.api] {
        for name in ["default", "ROOTCA"] {
            let refused = format!("sds.{name}.update_rejected");
            ensure!(proxy.stat(&refused).await? == 0);
        }
    }
    pair.talks().await
}
