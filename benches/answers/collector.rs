//! A collector of spans, in OTLP over gRPC: it accepts everything and keeps nothing.

use std::net::SocketAddr;

use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use prost::bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::{Result, anywhere};

/// An empty message: everything is accepted.
const ACCEPTED: Bytes = Bytes::from_static(&[0; 5]);

/// Serves as long as `tasks` live.
pub async fn serve(tasks: &mut JoinSet<()>) -> Result<SocketAddr> {
    let listener = TcpListener::bind(anywhere()).await?;
    let address = listener.local_addr()?;
    tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(collect(stream));
        }
    });
    Ok(address)
}

async fn collect(stream: TcpStream) -> Result<()> {
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(call) = connection.accept().await {
        let (request, respond) = call?;
        tokio::spawn(accept(request, respond));
    }
    Ok(())
}

async fn accept(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Result<()> {
    let mut body = request.into_body();
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data?.len())?;
    }
    let head = Response::builder().header("content-type", "application/grpc").body(())?;
    let mut answer = respond.send_response(head, false)?;
    answer.send_data(ACCEPTED, false)?;
    let status = ("grpc-status".try_into()?, HeaderValue::from_static("0"));
    answer.send_trailers(HeaderMap::from_iter([status]))?;
    Ok(())
}
