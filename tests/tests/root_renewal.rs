//! Roots that are so short-lived that they renew by themselves while somebody looks.

use anyhow::ensure;
use arx_proto::admin::v1::{ListRotationsRequest, Rotation};
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

async fn all(mesh: &Mesh) -> anyhow::Result<Vec<Rotation>> {
    let request = ListRotationsRequest::default();
    let answer = mesh.admin().await?.list_rotations(request).await?;
    Ok(answer.into_inner().rotations)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn roots_renew_by_themselves_again_and_again_under_load_without_a_failed_request()
-> anyhow::Result<()> {
    let pair = Pair::start(short_lived()).await?;
    let load = pair.load();
    for number in 1..=3 {
        for phase in ["reissue", "done"] {
            until(&format!("{phase} for the {number}. time"), || async {
                let all = all(&pair.mesh).await?;
                let entered = all.iter().filter(|rotation| {
                    let mut phases = rotation.phases.iter();
                    phases.any(|entered| entered.phase == phase)
                });
                Ok(entered.count() >= number)
            })
            .await?;
        }
    }
    load.stop().await.without_failure()?;

    let all = all(&pair.mesh).await?;
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
    for proxy in [&pair.web, &pair.api] {
        for name in ["default", "ROOTCA"] {
            let refused = format!("sds.{name}.update_rejected");
            ensure!(proxy.stat(&refused).await? == 0);
        }
    }
    pair.talks().await
}
