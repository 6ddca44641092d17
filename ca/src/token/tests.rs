//! Real keys sign, a real HTTP server on loopback hands keys out, and below kube's client
//! stands a service that answers as an API server does.

mod configuration;
mod fetching;
mod forged;
mod http;
mod issuer;
mod judged;
mod reviewed;
