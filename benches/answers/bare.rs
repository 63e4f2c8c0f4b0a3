//! The least that `GetOrder` can cost with the same gRPC library: tonic with a constant order behind it,
//! or with one request to the vendor and nothing else. It gathers writes, as the service does.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::stream;
use http::Request as HttpRequest;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use order_query::pb::order_service_server::{OrderService, OrderServiceServer};
use order_query::pb::{
    BatchGetOrdersRequest, BatchGetOrdersResponse, GetOrderRequest, GetOrderResponse, Order,
    OrderStatus, Source, WatchOrderRequest, WatchOrderResponse,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tonic::body::Body;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status};

use crate::anywhere;
use crate::rows::ORDERS;

/// Serves until the process is killed. Its log says where, as the service's does.
pub fn serve(vendor: SocketAddr) {
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let listener = TcpListener::bind(anywhere()).await.unwrap();
        let address = listener.local_addr().unwrap();
        eprintln!("{{\"message\":\"listening\",\"address\":\"{address}\"}}");
        let client = Client::builder(TokioExecutor::new()).build_http();
        let incoming = stream::unfold(listener, async |listener| {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            Some((Ok::<_, io::Error>(Gathering { stream, gathered: false }), listener))
        });
        let service = OrderServiceServer::new(Bare { client, vendor });
        let (_reporter, health) = tonic_health::server::health_reporter();
        let routes = Server::builder().add_service(health).add_service(service);
        routes.serve_with_incoming(incoming).await.unwrap();
    });
}

struct Bare {
    client: Client<HttpConnector, Body>,
    vendor: SocketAddr,
}

#[tonic::async_trait]
impl OrderService for Bare {
    async fn get_order(
        &self,
        request: Request<GetOrderRequest>,
    ) -> Result<Response<GetOrderResponse>, Status> {
        let GetOrderRequest { id, .. } = request.into_inner();
        let number: u64 = id.parse().unwrap();
        if number < ORDERS {
            return Ok(Response::new(found(id, Source::Cache)));
        }
        let uri = format!("http://{}/?orderId={id}", self.vendor);
        let answer = self.client.request(HttpRequest::get(uri).body(Body::empty()).unwrap());
        let body = Body::new(answer.await.unwrap().into_body());
        let bytes = read(body).await;
        let answer: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(answer["order"]["orderId"], id);
        Ok(Response::new(found(id, Source::Live)))
    }

    async fn batch_get_orders(
        &self,
        _: Request<BatchGetOrdersRequest>,
    ) -> Result<Response<BatchGetOrdersResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    type WatchOrderStream = stream::Empty<Result<WatchOrderResponse, Status>>;

    async fn watch_order(
        &self,
        _: Request<WatchOrderRequest>,
    ) -> Result<Response<Self::WatchOrderStream>, Status> {
        Err(Status::unimplemented(""))
    }
}

async fn read(mut body: Body) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(frame) =
        std::future::poll_fn(|context| http_body::Body::poll_frame(Pin::new(&mut body), context))
            .await
    {
        bytes.extend_from_slice(&frame.unwrap().into_data().unwrap_or_default());
    }
    bytes
}

/// An order of the size of the service's own answers.
fn found(id: String, source: Source) -> GetOrderResponse {
    let time = Some(prost_types::Timestamp { seconds: 1_687_265_841, nanos: 964_000_000 });
    let order = Order {
        id,
        account: "benched".to_owned(),
        status: OrderStatus::Paid.into(),
        provider_status: "2".to_owned(),
        create_time: time,
        update_time: time,
        observe_time: time,
        ..Order::default()
    };
    GetOrderResponse { order: Some(order), source: source.into(), refresh_time: time }
}

/// A stream whose writes wait until the handlers that are ready have run, once a burst.
struct Gathering {
    stream: TcpStream,
    gathered: bool,
}

impl Connected for Gathering {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Gathering {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Gathering {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !std::mem::replace(&mut self.gathered, true) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.gathered = false;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
