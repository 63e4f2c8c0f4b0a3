//! A client of HTTP/2 that asks gRPC questions: its connections, and the messages on them.

use std::net::SocketAddr;

use h2::RecvStream;
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderValue, Request, Uri};
use order_query::pb::{
    BatchGetOrdersRequest, GetOrderRequest, OrderRef, Provider, WatchOrderRequest,
};
use prost::Message;
use prost::bytes::Bytes;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::Result;

/// The deadline of a call that nothing hurries, in the words of gRPC.
pub const PATIENT: &str = "10S";

/// The length of what stands before each message: whether it is compressed, and its length.
const FRAME: usize = 5;

/// A server, and how it is reached.
#[derive(Clone)]
pub struct Target {
    pub address: SocketAddr,
    pub tls: Option<TlsConnector>,
    /// The `authorization` of its clients. The connections share them out.
    pub tokens: Vec<HeaderValue>,
    /// How many accounts callers name; 0 where they name none.
    pub accounts: u64,
}

/// A request on the wire: where to, and its framed message.
pub struct Question {
    uri: Uri,
    frame: Bytes,
}

impl Question {
    fn new(uri: &'static str, message: &impl Message) -> Self {
        let mut frame = vec![0; FRAME];
        // Each message is far below 4 GiB.
        frame[1..].copy_from_slice(&(message.encoded_len() as u32).to_be_bytes());
        frame.extend(message.encode_to_vec());
        Self { uri: Uri::from_static(uri), frame: frame.into() }
    }
}

fn account(accounts: u64, order: u64) -> String {
    order.checked_rem(accounts).map(|number| format!("a{number}")).unwrap_or_default()
}

fn order_ref(accounts: u64, order: u64) -> OrderRef {
    OrderRef {
        provider: Provider::Wechat.into(),
        id: order.to_string(),
        account: account(accounts, order),
        ..OrderRef::default()
    }
}

/// The question for the order with that number. The accounts share out the orders.
pub fn question(accounts: u64, order: u64) -> Question {
    let OrderRef { provider, id, account, .. } = order_ref(accounts, order);
    let message = GetOrderRequest { provider, id, account, ..GetOrderRequest::default() };
    Question::new("http://bench/orderquery.v1.OrderService/GetOrder", &message)
}

/// The question for so many orders, from that number on.
pub fn batch(first: u64, orders: u64) -> Question {
    let orders = (first..first + orders).map(|order| order_ref(0, order)).collect();
    let message = BatchGetOrdersRequest { orders, ..Default::default() };
    Question::new("http://bench/orderquery.v1.OrderService/BatchGetOrders", &message)
}

/// A watch of the order with that number.
pub fn watch(accounts: u64, order: u64) -> Question {
    let message =
        WatchOrderRequest { order: Some(order_ref(accounts, order)), ..Default::default() };
    Question::new("http://bench/orderquery.v1.OrderService/WatchOrder", &message)
}

/// What a server answers.
pub struct Answer {
    status: HeaderValue,
    body: Bytes,
}

impl Answer {
    /// The message of an answer that must be OK.
    pub fn ok(self) -> Result<Bytes> {
        if self.status == "0" {
            return Ok(self.body.get(FRAME..).map(Bytes::copy_from_slice).unwrap_or_default());
        }
        Err(format!("a call failed with the gRPC status {:?}", self.status).into())
    }
}

impl Target {
    /// Opens connections. Each has one of the tokens.
    pub async fn connect(&self, connections: u64) -> Result<Vec<Connection>> {
        let mut opened = Vec::new();
        for number in 0..connections {
            let place = number * self.tokens.len() as u64 / connections;
            let token = self.tokens.get(place as usize).cloned();
            let stream = TcpStream::connect(self.address).await?;
            stream.set_nodelay(true)?;
            let requests = match &self.tls {
                None => handshake(stream).await?,
                Some(tls) => {
                    let name = ServerName::try_from("localhost")?;
                    handshake(tls.connect(name, stream).await?).await?
                }
            };
            opened.push(Connection { requests, token });
        }
        Ok(opened)
    }

    /// Whether the server says that it is ready.
    pub async fn is_serving(&self) -> Result<bool> {
        let question = Question::new(
            "http://bench/grpc.health.v1.Health/Check",
            &HealthCheckRequest::default(),
        );
        let answer = self.connect(1).await?[0].ask(&question, PATIENT).await?.ok()?;
        let health = HealthCheckResponse::decode(answer)?;
        Ok(health.status == tonic_health::pb::health_check_response::ServingStatus::Serving as i32)
    }
}

async fn handshake<S>(stream: S) -> Result<SendRequest<Bytes>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = h2::client::Builder::new();
    let builder = builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 24);
    let (requests, connection) = builder.handshake(stream).await?;
    tokio::spawn(connection);
    Ok(requests)
}

/// An open connection, as one caller.
#[derive(Clone)]
pub struct Connection {
    requests: SendRequest<Bytes>,
    token: Option<HeaderValue>,
}

impl Connection {
    async fn send(
        &self,
        question: &Question,
        deadline: Option<&'static str>,
    ) -> Result<ResponseFuture> {
        let mut request = Request::post(question.uri.clone())
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some(deadline) = deadline {
            request = request.header("grpc-timeout", deadline);
        }
        if let Some(token) = &self.token {
            request = request.header("authorization", token);
        }
        let mut requests = self.requests.clone().ready().await?;
        let (answer, mut body) = requests.send_request(request.body(())?, false)?;
        body.send_data(question.frame.clone(), true)?;
        Ok(answer)
    }

    /// Asks one question.
    pub async fn ask(&self, question: &Question, deadline: &'static str) -> Result<Answer> {
        let answer = self.send(question, Some(deadline)).await?.await?;
        // An answer without a message has its status in its headers.
        let early = answer.headers().get("grpc-status").cloned();
        let (mut stream, mut body) = (answer.into_body(), Bytes::new());
        while let Some(data) = stream.data().await.transpose()? {
            stream.flow_control().release_capacity(data.len())?;
            // The messages whose content matters come in one piece.
            body = data;
        }
        let late = stream.trailers().await?;
        let status = early.or_else(|| late?.remove("grpc-status"));
        Ok(Answer { status: status.ok_or("an answer has no gRPC status")?, body })
    }

    /// Asks for a stream, and waits for its first message.
    pub async fn follow(&self, question: &Question) -> Result<RecvStream> {
        let mut stream = self.send(question, None).await?.await?.into_body();
        let data = stream.data().await.ok_or("a watch ended at once")??;
        stream.flow_control().release_capacity(data.len())?;
        Ok(stream)
    }
}
