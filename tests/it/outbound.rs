//! The vendors' transport, against real sockets: certificates, redirects, proxies, and bodies
//! without an end.

mod bodies;
mod ends;
mod proxies;
mod sent;
mod tls;
