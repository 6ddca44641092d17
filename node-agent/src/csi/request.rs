//! What a kubelet asks for, read and held against itself: the pod that it names, the path that it
//! has chosen for that pod, and the pod's own token. Each comes from another place, and whoever
//! describes a pod can write into the first alone.

use super::refused::Refused;
use super::target::Target;
use crate::attest::{Pod, PodUid, ServiceAccountToken};
use arx_proto::csi::v1::volume_capability::AccessType;
use arx_proto::csi::v1::{NodePublishVolumeRequest, NodeUnpublishVolumeRequest};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use zeroize::Zeroizing;

const POD_NAME: &str = "csi.storage.k8s.io/pod.name";
const POD_NAMESPACE: &str = "csi.storage.k8s.io/pod.namespace";
const POD_UID: &str = "csi.storage.k8s.io/pod.uid";
const SERVICE_ACCOUNT: &str = "csi.storage.k8s.io/serviceAccount.name";
const EPHEMERAL: &str = "csi.storage.k8s.io/ephemeral";
const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";
/// The longest id of a volume, in bytes (CSI 1.13, "Size Limits").
const LONGEST_ID: usize = 128;
/// The longest name in Kubernetes (RFC 1123).
const LONGEST_NAME: usize = 253;

/// What calls are held against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms<'a> {
    /// The kubelet's root.
    pub(crate) root: &'a Path,
    /// Whose token is taken; the only one there is if none.
    pub(crate) audience: Option<&'a str>,
    /// The node's name.
    pub(crate) node: &'a str,
}

/// A volume that is to be there, for a pod and with its token.
#[derive(Debug)]
pub(crate) struct Publish {
    pub(crate) volume: String,
    pub(crate) target: Target,
    pub(crate) pod: Pod,
    pub(crate) token: Arc<ServiceAccountToken>,
}

/// A volume that is to be there no more.
#[derive(Debug)]
pub(crate) struct Unpublish {
    pub(crate) volume: String,
    pub(crate) target: Target,
}

impl Publish {
    /// Reads a call.
    ///
    /// # Errors
    /// If anything of it is missing, or contradicts the rest.
    pub(crate) fn read(
        mut call: NodePublishVolumeRequest,
        terms: Terms<'_>,
    ) -> Result<Self, Refused> {
        // Whatever becomes of the call, no token stays in memory that nobody wipes.
        let tokens = Tokens::take(&mut call);
        let volume = volume(call.volume_id)?;
        if call.target_path.is_empty() {
            return Err(Refused::Incomplete("target_path"));
        }
        let capability = call.volume_capability.and_then(|it| it.access_type);
        match capability.ok_or(Refused::Incomplete("volume_capability"))? {
            AccessType::Mount(_) => {}
            AccessType::Block(_) => {
                return Err(Refused::Unusable("there are no block volumes here"));
            }
        }
        let context = call.volume_context;
        if context.get(EPHEMERAL).is_none_or(|it| it != "true") {
            return Err(Refused::NotEphemeral);
        }
        let pod = pod(&context)?;
        let target = Target::parse(&call.target_path, terms.root)?;
        if !target.is_of(&pod.uid) {
            return Err(target.refused(format!("not of pod {}, which the call names", pod.uid)));
        }
        let token = tokens.of(terms.audience)?;
        agrees(&token, &pod, terms.node)?;
        Ok(Self {
            volume,
            target,
            pod,
            token: Arc::new(token),
        })
    }
}

impl Unpublish {
    /// Reads a call.
    ///
    /// # Errors
    /// If anything of it is missing.
    pub(crate) fn read(call: NodeUnpublishVolumeRequest, root: &Path) -> Result<Self, Refused> {
        let volume = volume(call.volume_id)?;
        if call.target_path.is_empty() {
            return Err(Refused::Incomplete("target_path"));
        }
        let target = Target::parse(&call.target_path, root)?;
        Ok(Self { volume, target })
    }
}

fn volume(id: String) -> Result<String, Refused> {
    match id.len() {
        0 => Err(Refused::Incomplete("volume_id")),
        1..=LONGEST_ID => Ok(id),
        _ => Err(Refused::Unusable("volume_id is longer than 128 bytes")),
    }
}

fn pod(context: &HashMap<String, String>) -> Result<Pod, Refused> {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    let name = |key| {
        let name = context.get(key).ok_or(Refused::Context(key))?;
        let good = (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(fits);
        good.then(|| name.clone()).ok_or(Refused::Context(key))
    };
    let uid = context.get(POD_UID).and_then(|uid| PodUid::parse(uid));
    Ok(Pod {
        uid: uid.ok_or(Refused::Context(POD_UID))?,
        namespace: name(POD_NAMESPACE)?,
        name: name(POD_NAME)?,
        service_account: name(SERVICE_ACCOUNT)?,
    })
}

/// The token says for itself whose it is, and the authority believes nothing else. Here it is
/// only held against what the kubelet says, so that a mistake is told where it was made.
fn agrees(token: &ServiceAccountToken, pod: &Pod, node: &str) -> Result<(), Refused> {
    let claims = token.claims();
    if claims.subject.pod_uid != pod.uid.as_str() {
        return Err(Refused::Disagrees(format!(
            "the token is not bound to pod {pod}, which the call names"
        )));
    }
    if claims.subject.account != pod.account() {
        return Err(Refused::Disagrees(format!(
            "the token is not of service account {}/{}, which the call names",
            pod.namespace, pod.service_account
        )));
    }
    match claims.node.as_deref() {
        Some(other) if other != node => Err(Refused::Disagrees(format!(
            "the token is bound to node {:?}, and this is {node:?}",
            other.chars().take(LONGEST_NAME).collect::<String>()
        ))),
        _ => Ok(()),
    }
}

/// The pod's tokens as the kubelet writes them, in JSON.
#[derive(Debug)]
struct Tokens(Option<Zeroizing<String>>);

#[derive(Deserialize)]
struct Issued<'a> {
    token: &'a str,
}

impl Tokens {
    /// Takes them out of a call: from its secrets, where the CSIDriver object says
    /// serviceAccountTokenInSecrets, or from its context.
    fn take(call: &mut NodePublishVolumeRequest) -> Self {
        let context = call.volume_context.remove(TOKENS).map(Zeroizing::new);
        let mut secrets = std::mem::take(&mut call.secrets);
        let secret = secrets.remove(TOKENS).map(Zeroizing::new);
        secrets.into_values().map(Zeroizing::new).for_each(drop);
        Self(secret.or(context))
    }

    fn of(self, audience: Option<&str>) -> Result<ServiceAccountToken, Refused> {
        let refused = |message: &str| Err(Refused::Token(message.to_owned()));
        let Some(text) = self.0 else {
            return refused(
                "the pod's token is not in the call: list the authority's audience in tokenRequests of the CSIDriver object",
            );
        };
        let Ok(mut all) = serde_json::from_str::<BTreeMap<String, Issued<'_>>>(&text) else {
            return refused("the pod's tokens are not as kubelets write them");
        };
        let token = match audience {
            Some(audience) => all.remove(audience).ok_or_else(|| {
                Refused::Token(format!(
                    "the call has no token for {audience:?}: list it in tokenRequests of the CSIDriver object"
                ))
            })?,
            None => match all.pop_first() {
                Some((_, only)) if all.is_empty() => only,
                Some(_) => {
                    return refused(
                        "the call has tokens for several audiences: say in pod_sockets.audience which is the authority's",
                    );
                }
                None => return refused("the call has an empty list of tokens"),
            },
        };
        ServiceAccountToken::new(token.token)
            .map_err(|error| Refused::Token(format!("the pod's token: {error}")))
    }
}

#[cfg(test)]
mod tests;
