//! A vendor that knows every order, in WeChat's protocol, and answers after a fixed time.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::{Result, anywhere};

/// Serves as long as `tasks` live.
pub async fn serve(delay: Duration, tasks: &mut JoinSet<()>) -> Result<SocketAddr> {
    let listener = TcpListener::bind(anywhere()).await?;
    let address = listener.local_addr()?;
    tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // Without it the answers are late, and no less right.
            let _ = stream.set_nodelay(true);
            let service = service_fn(move |request| async move {
                if !delay.is_zero() {
                    tokio::time::sleep(delay).await;
                }
                Ok::<_, Infallible>(answer(&request))
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    Ok(address)
}

fn answer(request: &Request<Incoming>) -> Response<String> {
    let mut pairs = request.uri().query().unwrap_or_default().split('&');
    let id = pairs.find_map(|pair| pair.strip_prefix("orderId="));
    Response::new(match id {
        None => r#"{"access_token":"token","expires_in":7200}"#.to_owned(),
        Some(id) => format!(
            r#"{{"errcode":0,"errmsg":"ok","order":{{"orderId":"{id}","status":2,"createTime":1687265841964,
            "updateTime":1687267671475,"orderPrice":"1","payInfo":{{"applyPayTime":1687265845,
            "finishPayTime":1687265856}},"orderProductInfo":{{"spSpuId":"10000111","spSkuId":"20000176",
            "skuCnt":1,"spBizId":100100,"spuName":"spu name","skuName":"sku name",
            "validityBeginTime":1687265856,"validityEndTime":1718801856}},"invoiceInfo":{{"invoiceStatus":2,
            "invoiceApplyTime":1687265870}},"usage":{{"used":"0","all":"1000"}}}}}}"#
        ),
    })
}
