//! Canaries: unique texts in place of every secret and all personal data. They go through
//! the real binary while it logs everything, and must appear only where they belong.

mod callers;
mod check;
mod life;
mod panics;
mod serve;
mod vendor;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD};

/// Texts that only the vendor may see.
const WECHAT_SECRET: &str = "canaryWechatSecret4f1c";
const ACCESS_TOKEN: &str = "canaryAccessToken9b2e";
const DINGSHANG_SECRET: &str = "canaryDingshangSecret77aa";
const DINGSHANG_KEY: &str = "canaryDingshangKey0c3d";
const HAOKA_SECRET: &str = "canaryHaokaSecret5e5e";
const PROXY_WORD: &str = "canaryProxyWord31d0";
const SECRETS: [&str; 6] =
    [WECHAT_SECRET, ACCESS_TOKEN, DINGSHANG_SECRET, DINGSHANG_KEY, HAOKA_SECRET, PROXY_WORD];

/// Texts that callers may see in an order, and that must not appear in a log or an error.
const NAME: &str = "canaryName田先生";
const PHONE: &str = "13095542718";
const REMARK: &str = "canaryRemark-third-floor";
const TRACKING: &str = "canaryTrackingJDV01";
/// The middle of an id of `WeChat`'s and Haoka's, and of Dingshang's.
const ID_MIDDLE: &str = "CANARYMIDDLE";
const NUMBER_MIDDLE: &str = "7083316";
const PERSONAL: [&str; 6] = [NAME, PHONE, REMARK, TRACKING, ID_MIDDLE, NUMBER_MIDDLE];

const WORD_ID: &str = "DD77-CANARYMIDDLE-0042";
const NUMBER_ID: &str = "170833160042";

/// The forms in which a text may leak: as it is, escaped for people, for JSON and for URLs, as
/// base64 at any offset, and as bytes.
fn forms(canary: &str) -> Vec<String> {
    let escaped = canary.escape_default().to_string();
    let url: String = form_urlencoded::byte_serialize(canary.as_bytes()).collect();
    let in_json = serde_json::to_string(&escaped).unwrap().trim_matches('"').to_owned();
    let bytes = canary.as_bytes();
    let hex = |byte: &u8| format!("{byte:02x}");
    let hex: String = bytes.iter().map(hex).collect();
    let list = format!("{bytes:?}").trim_matches(['[', ']']).to_owned();
    let mut forms = vec![canary.to_owned(), escaped, in_json, url, hex.to_uppercase(), hex, list];
    for before in 0..3 {
        let encoded = BASE64.encode([&vec![0; before][..], bytes].concat());
        // Without the characters that depend on adjacent bytes.
        let inner = &encoded[(before * 8).div_ceil(6)..(before + bytes.len()) * 8 / 6];
        forms.extend([inner.to_owned(), inner.replace('+', "-").replace('/', "_")]);
    }
    forms
}

/// The canaries that a text contains, in any form.
fn found<'a>(canaries: &[&'a str], text: &str) -> Vec<&'a str> {
    let holds = |canary: &str| forms(canary).iter().any(|form| text.contains(form));
    canaries.iter().copied().filter(|canary| holds(canary)).collect()
}

#[track_caller]
fn assert_none(canaries: &[&str], text: &str) {
    let found = found(canaries, text);
    assert!(found.is_empty(), "{found:?} in:\n{text}");
}

/// Below INFO only this crate may log: what libraries log can change.
#[track_caller]
fn assert_libraries_are_quiet(log: &str) {
    let low = |line: &&str| ["DEBUG", "TRACE"].iter().any(|level| line.contains(level));
    let mut theirs = log.lines().filter(low).filter(|line| !line.contains("order_query::"));
    assert_eq!(theirs.next(), None);
}

#[test]
fn the_search_finds_canaries_in_every_form() {
    let text = format!("level=TRACE token={ACCESS_TOKEN}, name={}", NAME.escape_default());
    assert_eq!(found(&SECRETS, &text), [ACCESS_TOKEN]);
    assert_eq!(found(&PERSONAL, &text), [NAME]);
    for canary in [ACCESS_TOKEN, NAME, "with/a+b c\"d\n?~"] {
        for around in ["", "a", "ab", "abc"] {
            let whole = format!("{around}{canary}{around}");
            let url: String = form_urlencoded::byte_serialize(whole.as_bytes()).collect();
            for text in [
                format!("{whole:?}"),
                format!("{:?}", whole.as_bytes()),
                serde_json::json!({ "text": whole }).to_string(),
                BASE64.encode(&whole),
                URL_SAFE_NO_PAD.encode(&whole),
                url,
                whole,
            ] {
                assert_eq!(found(&[canary, "not there"], &text), [canary], "{text}");
            }
        }
    }
}
