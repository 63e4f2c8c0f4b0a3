//! The transport to vendors, over real sockets: certificates, redirects, proxies, and endless
//! bodies.

mod bodies;
mod ends;
mod proxies;
mod sent;
mod tls;
