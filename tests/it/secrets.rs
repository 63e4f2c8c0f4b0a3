//! Canaries: unique texts in the place of every secret and of everything personal. They go through
//! the real binary while it logs all it can, and must come out nowhere but where they belong.

mod callers;
mod check;
mod panics;
mod serve;
mod vendor;

/// Who may never read them: anyone but the vendor.
const WECHAT_SECRET: &str = "canaryWechatSecret4f1c";
const ACCESS_TOKEN: &str = "canaryAccessToken9b2e";
const DINGSHANG_SECRET: &str = "canaryDingshangSecret77aa";
const DINGSHANG_KEY: &str = "canaryDingshangKey0c3d";
const HAOKA_SECRET: &str = "canaryHaokaSecret5e5e";
const PROXY_WORD: &str = "canaryProxyWord31d0";
const SECRETS: [&str; 6] =
    [WECHAT_SECRET, ACCESS_TOKEN, DINGSHANG_SECRET, DINGSHANG_KEY, HAOKA_SECRET, PROXY_WORD];

/// What callers may read in an order, and nobody in a log or in an error.
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

/// The canaries that a text holds, as it is written or as it is escaped.
fn found<'a>(canaries: &[&'a str], text: &str) -> Vec<&'a str> {
    let holds = |canary: &str| {
        let escaped = canary.escape_default().to_string();
        let in_json = serde_json::to_string(&escaped).unwrap();
        [canary, &escaped, in_json.trim_matches('"')].iter().any(|form| text.contains(form))
    };
    canaries.iter().copied().filter(|canary| holds(canary)).collect()
}

#[track_caller]
fn assert_none(canaries: &[&str], text: &str) {
    let found = found(canaries, text);
    assert!(found.is_empty(), "{found:?} in:\n{text}");
}

#[test]
fn the_search_finds_what_is_there() {
    let text = format!("level=TRACE token={ACCESS_TOKEN}, name={}", NAME.escape_default());
    assert_eq!(found(&SECRETS, &text), [ACCESS_TOKEN]);
    assert_eq!(found(&PERSONAL, &text), [NAME]);
}
