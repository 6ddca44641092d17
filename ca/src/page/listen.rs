//! A listener of the page's own: in plain HTTP on loopback, and else by TLS with the
//! authority's serving certificate.

use std::sync::Arc;

use arx_daemon::ops::web;
use arx_identity::tls;
use tokio::net::{TcpListener, TcpStream};

use super::Page;

impl Page {
    /// Serves what connects to `listener`, for as long as it is polled.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, tls: bool) {
        web::accept(listener, move |stream| {
            let page = Arc::clone(&self);
            async move {
                if tls {
                    page.secured(stream).await;
                } else {
                    page.plain(stream).await;
                }
            }
        })
        .await;
    }

    async fn plain(self: Arc<Self>, stream: TcpStream) {
        web::serve(stream, |request| {
            let page = Arc::clone(&self);
            async move { page.answer(&request.into_parts().0, None).await }
        })
        .await;
    }

    /// Each connection has the certificate and the roots of its moment.
    async fn secured(self: Arc<Self>, stream: TcpStream) {
        let Some(ca) = self.ca.get() else { return };
        let Some(svid) = ca.authority.serving() else {
            return;
        };
        let server = match tls::Server::for_browsers(&svid, &ca.trust.current()) {
            Ok(server) => server,
            Err(error) => {
                tracing::error!(code = "ARX-TLS", %error, "the page can't be served by TLS");
                return;
            }
        };
        let stream = match server.accept(stream).await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(code = "ARX-HANDSHAKE", %error, "no connection to the page");
                return;
            }
        };
        let peer = stream.peer().cloned();
        web::serve(stream, |request| {
            let (page, peer) = (Arc::clone(&self), peer.clone());
            async move { page.answer(&request.into_parts().0, peer.as_ref()).await }
        })
        .await;
    }
}
