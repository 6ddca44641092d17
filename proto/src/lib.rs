//! The wire protocols of Arx: its own, and those parts of Envoy's secret discovery and of
//! what kubelets speak to drivers that it speaks. Generated code only, no logic.
#![allow(
    clippy::all,
    clippy::allow_attributes_without_reason,
    unreachable_pub,
    missing_debug_implementations,
    reason = "everything below is generated"
)]

pub mod codec;

/// What an operator's command line asks of an authority.
pub mod admin {
    /// Version 1 of `arx.admin`.
    pub mod v1 {
        tonic::include_proto!("arx.admin.v1");
    }
}

/// What a node agent and an authority say to each other.
pub mod node {
    /// Version 1 of `arx.node`.
    pub mod v1 {
        tonic::include_proto!("arx.node.v1");
    }
}

/// What an authority asks of another that it stands below.
pub mod nested {
    /// Version 1 of `arx.nested`.
    pub mod v1 {
        tonic::include_proto!("arx.nested.v1");
    }
}

/// What one replica of an authority asks of another.
pub mod peer {
    /// Version 1 of `arx.peer`.
    pub mod v1 {
        tonic::include_proto!("arx.peer.v1");
    }
}

/// What an authority asks of whatever holds its root's key.
pub mod signer {
    /// Version 1 of `arx.signer`.
    pub mod v1 {
        tonic::include_proto!("arx.signer.v1");
    }
}

/// A wire-compatible subset of the Container Storage Interface, under the same name.
pub mod csi {
    /// `csi.v1`
    pub mod v1 {
        tonic::include_proto!("csi.v1");
    }
}

/// How a driver makes itself known to a kubelet.
pub mod pluginregistration {
    tonic::include_proto!("pluginregistration");
}

/// Wire-compatible subset of etcd's `etcdserverpb`.
pub mod etcdserverpb {
    tonic::include_proto!("etcdserverpb");
}

/// Wire-compatible subset of etcd's `mvccpb`.
pub mod mvccpb {
    tonic::include_proto!("mvccpb");
}

/// Wire-compatible subsets of Envoy's own packages, under the same names.
pub mod envoy {
    /// `envoy.config`
    pub mod config {
        /// `envoy.config.core`
        pub mod core {
            /// `envoy.config.core.v3`
            pub mod v3 {
                tonic::include_proto!("envoy.config.core.v3");
            }
        }
    }
    /// `envoy.service`
    pub mod service {
        /// `envoy.service.discovery`
        pub mod discovery {
            /// `envoy.service.discovery.v3`
            pub mod v3 {
                tonic::include_proto!("envoy.service.discovery.v3");
            }
        }
        /// `envoy.service.secret`
        pub mod secret {
            /// `envoy.service.secret.v3`
            pub mod v3 {
                tonic::include_proto!("envoy.service.secret.v3");
            }
        }
    }
    /// `envoy.extensions`
    pub mod extensions {
        /// `envoy.extensions.transport_sockets`
        pub mod transport_sockets {
            /// `envoy.extensions.transport_sockets.tls`
            pub mod tls {
                /// `envoy.extensions.transport_sockets.tls.v3`
                pub mod v3 {
                    tonic::include_proto!("envoy.extensions.transport_sockets.tls.v3");
                }
            }
        }
    }
}

/// `google`
pub mod google {
    /// `google.rpc`: only what is used here.
    pub mod rpc {
        tonic::include_proto!("google.rpc");
    }
}
