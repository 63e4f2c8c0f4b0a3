//! Formats an order as text for people to read in a terminal. Used by the commands that print orders.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use jiff::fmt::friendly::SpanPrinter;
use prost_types::Timestamp;
use unicode_width::UnicodeWidthStr as _;

use crate::clock::{Clock as _, SystemClock};
use crate::pb::{self, GetOrderResponse, Money, Order, OrderItem};
use crate::telemetry::is_harmful;

/// The width of the label column.
const NAME_WIDTH: usize = 18;

/// The answer, one line for each value that the vendor returned.
pub(super) fn order(answer: &GetOrderResponse) -> String {
    let default = Order::default();
    let order = answer.order.as_ref().unwrap_or(&default);
    let mut render = format!("{} order {}\n", order.provider().word(), plain(&order.id));
    for (name, value) in lines(answer, order) {
        if !value.is_empty() {
            let _ = writeln!(render, "  {name:NAME_WIDTH$} {}", plain(&value));
        }
    }
    if !order.items.is_empty() {
        render += &items(&order.items);
    }
    render
}

fn lines(answer: &GetOrderResponse, order: &Order) -> Vec<(&'static str, String)> {
    let payment = order.payment.unwrap_or_default();
    let invoice = order.invoice.clone().unwrap_or_default();
    let shipment = order.shipment.clone().unwrap_or_default();
    let recipient = order.recipient.clone().unwrap_or_default();
    let card = order.sim_card.clone().unwrap_or_default();
    let terminal = if order.terminal { ", final" } else { "" };
    vec![
        ("status", format!("{}{terminal}", named(order.status(), &order.provider_status))),
        ("total", money(order.total.as_ref())),
        ("created", time(order.create_time)),
        ("created on", order.create_date.clone()),
        ("updated", time(order.update_time)),
        ("payment started", time(payment.apply_time)),
        ("paid", time(payment.finish_time)),
        (
            "invoice",
            optional(order.invoice.is_some(), || named(invoice.status(), &invoice.provider_status)),
        ),
        ("invoice requested", time(invoice.apply_time)),
        ("used", order.usage.map(|u| format!("{} of {}", u.used, u.total)).unwrap_or_default()),
        ("carrier", shipment.carrier),
        ("tracking number", shipment.tracking_number),
        (
            "SIM card",
            optional(order.sim_card.is_some(), || {
                named(card.activation_status(), &card.provider_status)
            }),
        ),
        ("activated", time(card.activation_time)),
        ("first top-up", card.first_topped_up.map(yes_or_no).unwrap_or_default().to_owned()),
        ("first top-up of", card.first_top_up),
        ("recipient", [recipient.name, recipient.phone].join(" ").trim().to_owned()),
        ("vendor's number", order.provider_order_id.clone()),
        ("seller's number", order.merchant_order_id.clone()),
        ("machine", order.machine_no.clone()),
        ("pickup code", order.pickup_code_id.clone()),
        ("dispense notices", number(order.dispense_notice_count)),
        ("remark", order.remark.clone()),
        ("account", order.account.clone()),
        ("answer", source_and_age(answer, order)),
        ("refresh from", time(answer.refresh_time)),
    ]
}

/// Where the answer comes from, and how old it is.
fn source_and_age(answer: &GetOrderResponse, order: &Order) -> String {
    let now = SystemClock.now();
    let observed = order.observe_time.and_then(|time| SystemTime::try_from(time).ok());
    // In whole seconds. The server's clock may be ahead of ours; the age is then 0.
    let age = observed.map(|time| now.duration_since(time).unwrap_or_default().as_secs());
    let age = age
        .map(Duration::from_secs)
        .map(|age| format!(", {} old", SpanPrinter::new().unsigned_duration_to_string(&age)));
    let age = age.unwrap_or_default();
    let source = pb::short_name(answer.source());
    format!("{source}, observed {}{age}", time(order.observe_time))
}

/// The items as a table, without the columns that are empty for every item.
fn items(items: &[OrderItem]) -> String {
    /// A column's heading, and an item's text in it.
    type Column = (&'static str, fn(&OrderItem) -> String);
    let columns: [Column; 9] = [
        ("line", |item| item.id.clone()),
        ("product", |item| item.product_id.clone()),
        ("name", |item| [item.product_name.as_str(), &item.sku_name].join(" ").trim().to_owned()),
        ("quantity", |item| number(item.quantity)),
        ("total", |item| money(item.total.as_ref())),
        ("status", |item| {
            let is_set = item.fulfillment_status != 0 || !item.provider_status.is_empty();
            optional(is_set, || named(item.fulfillment_status(), &item.provider_status))
        }),
        ("notified", |item| item.dispense_notified.map(yes_or_no).unwrap_or_default().to_owned()),
        ("valid from", |item| time(item.valid_from)),
        ("valid until", |item| time(item.valid_until)),
    ];
    let mut rows = vec![String::from("  "); items.len() + 1];
    for (name, cell) in columns {
        let cells: Vec<String> = items.iter().map(|item| plain(&cell(item))).collect();
        if cells.iter().all(String::is_empty) {
            continue;
        }
        let column: Vec<&str> =
            [name].into_iter().chain(cells.iter().map(String::as_str)).collect();
        let width = column.iter().map(|cell| cell.width()).max().unwrap_or_default();
        for (row, cell) in rows.iter_mut().zip(column) {
            *row += cell;
            *row += &" ".repeat(width - cell.width() + 2);
        }
    }
    rows.iter().fold(String::new(), |table, row| format!("{table}{}\n", row.trim_end()))
}

fn optional(is_set: bool, text: impl FnOnce() -> String) -> String {
    if is_set { text() } else { String::new() }
}

/// The contract's name of the value, and the vendor's own word.
fn named<E: pb::Named>(value: E, word: &str) -> String {
    match word {
        "" => pb::short_name(value).to_owned(),
        word => format!("{} ({word})", pb::short_name(value)),
    }
}

fn yes_or_no(flag: bool) -> &'static str {
    if flag { "yes" } else { "no" }
}

fn number(number: Option<i64>) -> String {
    number.map(|number| number.to_string()).unwrap_or_default()
}

/// "3.00 CNY"; in minor units if the currency is unknown here.
fn money(money: Option<&Money>) -> String {
    let Some(Money { currency_code, minor_units }) = money else { return String::new() };
    let currency = iso_currency::Currency::from_code(currency_code);
    let Some(digits) = currency.and_then(iso_currency::Currency::exponent) else {
        return format!("{minor_units} minor units of {currency_code}");
    };
    let sign = if *minor_units < 0 { "-" } else { "" };
    let digits = usize::from(digits);
    let text = format!("{:0>1$}", minor_units.unsigned_abs(), digits + 1);
    let (whole, fraction) = text.split_at(text.len() - digits);
    let point = if digits == 0 { "" } else { "." };
    format!("{sign}{whole}{point}{fraction} {currency_code}")
}

/// A time in UTC, which every machine knows: "2023-06-20 12:57:21 UTC".
fn time(time: Option<Timestamp>) -> String {
    let Some(time) = time else { return String::new() };
    match jiff::Timestamp::new(time.seconds, time.nanos) {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        Err(_) => "invalid time".to_owned(),
    }
}

/// The text, with every character replaced that could control a terminal: it comes from vendors and
/// servers.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if is_harmful(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_the_decimal_places_of_their_currency() {
        let cases = [
            ("CNY", 300, "3.00 CNY"),
            ("CNY", 5, "0.05 CNY"),
            ("CNY", -105, "-1.05 CNY"),
            ("CNY", i64::MIN, "-92233720368547758.08 CNY"),
            ("JPY", 300, "300 JPY"),
            ("KWD", 1, "0.001 KWD"),
            ("?", 7, "7 minor units of ?"),
        ];
        for (code, minor_units, expected) in cases {
            let amount = Money { currency_code: code.to_owned(), minor_units };
            assert_eq!(money(Some(&amount)), expected);
        }
    }

    #[test]
    fn control_characters_are_replaced_in_the_output() {
        let order = Order { remark: "a\u{1b}[2Jb\nc".to_owned(), ..Order::default() };
        let render = self::order(&GetOrderResponse { order: Some(order), ..Default::default() });
        assert!(render.contains("a\u{fffd}[2Jb\u{fffd}c"), "{render}");
    }
}
