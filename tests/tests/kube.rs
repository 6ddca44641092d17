//! In a cluster: a real API server and controller manager, and what stands in for kubelets.
//! `make test-kube` runs these.

mod kube {
    mod agents;
    mod chart;
    mod clusters;
    mod csi;
    mod explained;
    mod pods;
    mod process;
    mod publish;
    mod served;
    mod shop;
    mod store;
    mod tokens;
}
