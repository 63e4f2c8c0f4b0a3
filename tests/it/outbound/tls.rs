//! Certificates and redirects.

use axum::http::header::LOCATION;
use order_query::pb::Provider;

use crate::support::facts::{ANSWER, accounts, first_calls};
use crate::support::played::{Played, answer};
use crate::support::secured::Secured;
use crate::support::{Failed, Server};

/// The vendor is unreachable, and the caller's error contains no URL.
#[track_caller]
fn assert_unreachable(failed: &Failed, vendor: &Played) {
    assert_eq!(failed.reason, "PROVIDER_UNAVAILABLE", "{failed:?}");
    assert_eq!(failed.message, "the vendor cannot be reached; retry later");
    let port = vendor.address.port().to_string();
    let told = format!("{failed:?}");
    assert!(!told.contains(&port) && !told.contains("http"), "{told}");
}

#[tokio::test]
async fn an_untrusted_certificate_is_refused() {
    let secured = Secured::start("127.0.0.1").await;
    let server = Server::start(&accounts(&secured.url(), "")).await;
    for provider in Provider::all() {
        assert_unreachable(&server.order(provider, "54").await.unwrap_err(), &secured.vendor);
    }
    assert!(
        secured.vendor.connections() >= Provider::all().count(),
        "the vendor was there to be asked"
    );
    assert_eq!(secured.vendor.asked().len(), 0, "nothing was sent to a stranger");
}

#[tokio::test]
async fn a_ca_file_makes_the_vendor_trusted() {
    let secured = Secured::start("127.0.0.1").await;
    let server = Server::start(&accounts(&secured.url(), &secured.ca_file())).await;
    for provider in Provider::all() {
        let order = server.order(provider, "54").await.unwrap();
        assert_eq!(order.id, "54", "{provider:?}");
        assert!(!order.provider_status.is_empty(), "{provider:?}");
    }
    assert_eq!(secured.vendor.asked().len(), first_calls());
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let secured = Secured::start("vendor.example").await;
    let server = Server::start(&accounts(&secured.url(), &secured.ca_file())).await;
    for provider in Provider::all() {
        assert_unreachable(&server.order(provider, "54").await.unwrap_err(), &secured.vendor);
    }
    assert_eq!(secured.vendor.asked().len(), 0);
}

#[tokio::test]
async fn a_vendor_without_tls_is_unreachable_over_https() {
    let plain = Played::start(|_| async { answer(200, ANSWER.as_str()) }).await;
    let server = Server::start(&accounts(&format!("https://{}", plain.address), "")).await;
    let failed = server.order(Provider::Haoka, "54").await.unwrap_err();
    assert_unreachable(&failed, &plain);
    assert_eq!(plain.asked().len(), 0);
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let trap = Played::start(|_| async { answer(200, ANSWER.as_str()) }).await;
    for status in [301, 302, 303, 307, 308] {
        let target = trap.url();
        let vendor = Played::start(move |asked| {
            let mut response = answer(status, "moved");
            let elsewhere = format!("{target}{}", asked.uri);
            response.headers_mut().insert(LOCATION, elsewhere.parse().unwrap());
            async { response }
        })
        .await;
        let server = Server::start(&accounts(&vendor.url(), "")).await;
        for provider in Provider::all() {
            let failed = server.order(provider, "54").await.unwrap_err();
            assert_eq!(failed.reason, "PROVIDER_ERROR", "{failed:?}");
            assert!(failed.message.contains(&format!("HTTP {status}")), "{failed:?}");
            assert!(failed.message.contains("check the account's base_url"), "{failed:?}");
            assert!(!format!("{failed:?}").contains("http://"), "{failed:?}");
        }
        assert_eq!(vendor.asked().len(), Provider::all().count());
    }
    assert_eq!(trap.connections(), 0);
}
