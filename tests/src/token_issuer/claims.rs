//! What a token says.

/// What a token says; begin with [`Claims::new`] and change what the test is about.
#[derive(Clone, Debug)]
pub struct Claims {
    /// `alg` of the header, instead of the key's. `none` leaves the signature out; `HS256`
    /// signs with the public key as if it were a secret (key confusion).
    pub algorithm: Option<String>,
    /// `kid` of the header, instead of the key's.
    pub key_id: Option<String>,
    /// `iss`.
    pub issuer: Option<String>,
    /// `aud`.
    pub audience: String,
    /// Namespace of the service account.
    pub namespace: String,
    /// Its name.
    pub service_account: String,
    /// The pod that it is bound to.
    pub pod: Option<String>,
    /// Its UID, if not one made of its name.
    pub pod_uid: Option<String>,
    /// The node that the pod runs on.
    pub node: Option<String>,
    /// Begins so long before now; negative lies in the future.
    pub age: i64,
    /// Valid for so long after now; negative is over.
    pub lifetime: i64,
    /// `warnafter`: a token of extended life.
    pub extended: bool,
    /// Bytes of a claim that nobody reads.
    pub padding: usize,
}

impl Claims {
    /// A good token of this account, in a pod on `node`.
    #[must_use]
    pub fn new(audience: &str, namespace: &str, service_account: &str, node: &str) -> Self {
        Self {
            algorithm: None,
            key_id: None,
            issuer: None,
            audience: audience.to_owned(),
            namespace: namespace.to_owned(),
            service_account: service_account.to_owned(),
            pod: Some(format!("{service_account}-0")),
            pod_uid: None,
            node: Some(node.to_owned()),
            age: 1,
            lifetime: 3600,
            extended: false,
            padding: 0,
        }
    }
}
