//! Certificates: reads a PEM file completely or refuses it, and reads when a certificate is valid.
//! Depends on no other module; every module may use it.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::server::ParsedCertificate;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::time::Time;

const BEGIN: &str = "-----BEGIN ";
const DASHES: &str = "-----";
const CERTIFICATE: &str = "CERTIFICATE";
const PRIVATE_KEY: &str = "PRIVATE KEY";

const UNENCRYPTED: &str = "holds no unencrypted private key in PEM";

/// The remains of a damaged BEGIN or END line.
const DAMAGED: [&str; 4] = ["-BEGIN ", "-END ", "BEGIN CERTIFICATE", "END CERTIFICATE"];

/// A certificate that expires within this time is worth a warning.
pub const ENDS_SOON: Duration = Duration::from_hours(14 * 24);

/// What a PEM file is read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pem {
    /// A certificate, and the intermediate ones up to its authority.
    Chain,
    /// The certificates of authorities.
    Authorities,
    /// The one private key.
    Key,
}

/// A block of a PEM file.
struct Block<'a> {
    label: &'a str,
    /// The base64 between the BEGIN and END lines.
    body: &'a str,
}

impl Pem {
    /// Reads a PEM file completely. Returns the blocks of the wanted kind, each on lines of its own:
    /// libraries silently skip a block that is not, such as after two files are joined and the first
    /// has no line break at its end. Leaves out text between the blocks.
    ///
    /// # Errors
    /// What is wrong with the file, worded to follow its name.
    pub fn read(self, text: &str) -> Result<String, String> {
        let mut wanted = Vec::new();
        for (index, Block { label, body }) in blocks(text)?.into_iter().enumerate() {
            let number = index + 1;
            if self.wants(label) {
                let body: String = body.split_whitespace().collect();
                self.check(number, &body)?;
                wanted.push(format!("{BEGIN}{label}-----\n{body}\n-----END {label}-----\n"));
            } else if !self.passes_over(label) {
                return Err(format!(
                    "has a block that is not used here (block {number}); remove it"
                ));
            }
        }
        match (self, wanted.len()) {
            (Self::Key, 0) => Err(UNENCRYPTED.to_owned()),
            (_, 0) => Err("holds no certificate in PEM".to_owned()),
            (Self::Key, 2..) => {
                Err("holds several private keys; keep only the one to use".to_owned())
            }
            _ => Ok(wanted.concat()),
        }
    }

    fn wants(self, label: &str) -> bool {
        match self {
            Self::Chain | Self::Authorities => label == CERTIFICATE,
            Self::Key => [PRIVATE_KEY, "RSA PRIVATE KEY", "EC PRIVATE KEY"].contains(&label),
        }
    }

    /// Whether a block may be skipped. A key is often in one file with its certificate. A certificate
    /// of another kind or a revocation list may not be skipped: its owner expects it to count.
    fn passes_over(self, label: &str) -> bool {
        self == Self::Key || label.ends_with(PRIVATE_KEY) || label.ends_with(" PARAMETERS")
    }

    /// Checks that a block is what its label says.
    fn check(self, number: usize, body: &str) -> Result<(), String> {
        let what = if self == Self::Key { "private key" } else { "certificate" };
        if body.starts_with("Proc-Type:") {
            return Err(UNENCRYPTED.to_owned());
        }
        let der = BASE64.decode(body).map_err(|_| {
            format!("holds a {what} that cannot be read: block {number} is not base64")
        })?;
        let der = CertificateDer::from(der);
        let is_sound = match self {
            Self::Key => true,
            // Each parser reads certificates that the other does not; neither checks whether a
            // certificate is still valid.
            Self::Chain => ParsedCertificate::try_from(&der).is_ok() || not_after(&der).is_some(),
            Self::Authorities => RootCertStore::empty().add(der).is_ok(),
        };
        let unsound =
            || format!("holds a certificate that cannot be used: block {number} is not X.509");
        if is_sound { Ok(()) } else { Err(unsound()) }
    }
}

/// The blocks of a PEM file, even if they begin in the middle of a line.
fn blocks(text: &str) -> Result<Vec<Block<'_>>, String> {
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some((before, begun)) = rest.split_once(BEGIN) {
        check_between(before, blocks.len())?;
        let number = blocks.len() + 1;
        let torn = || format!("is incomplete: block {number} has no END line of its own");
        let (label, body) = begun.split_once(DASHES).ok_or_else(torn)?;
        let (body, after) = body.split_once(&format!("-----END {label}-----")).ok_or_else(torn)?;
        if body.contains(DASHES) {
            return Err(torn());
        }
        blocks.push(Block { label, body });
        rest = after;
    }
    check_between(rest, blocks.len())?;
    Ok(blocks)
}

/// Allows any text between blocks, except the remains of a damaged block.
fn check_between(text: &str, number: usize) -> Result<(), String> {
    if DAMAGED.iter().any(|mark| text.contains(mark)) {
        return Err(format!(
            "is incomplete: after block {number} there is a damaged BEGIN or END line"
        ));
    }
    Ok(())
}

/// The last moment at which a certificate, in DER, is valid; `None` if it cannot be read.
#[must_use]
pub fn not_after(der: &[u8]) -> Option<SystemTime> {
    validity(der).map(|(_, end)| end)
}

/// The first and the last moment at which a certificate is valid.
fn validity(der: &[u8]) -> Option<(SystemTime, SystemTime)> {
    let certificate = Certificate::from_der(der).ok()?;
    let validity = certificate.tbs_certificate().validity();
    let time = |time: Time| SystemTime::UNIX_EPOCH.checked_add(time.to_unix_duration());
    Some((time(validity.not_before)?, time(validity.not_after)?))
}

/// Why a certificate is not valid now, worded to follow the name of its file; `None` if it is valid, or
/// cannot be read.
#[must_use]
pub fn untimely(der: &[u8], now: SystemTime) -> Option<String> {
    let (begin, end) = validity(der)?;
    let shown = |time| Timestamp::try_from(time).map(|time| time.to_string()).unwrap_or_default();
    if now > end {
        let end = shown(end);
        Some(format!(
            "holds a certificate that has expired ({end}), which no peer trusts: renew it"
        ))
    } else if now < begin {
        let begin = shown(begin);
        Some(format!(
            "holds a certificate that is not valid yet ({begin}), which no peer trusts: check this \
             machine's clock, or replace the certificate"
        ))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::PrivateKeyDer;
    use rustls::pki_types::pem::PemObject as _;

    use super::*;

    #[test]
    fn the_expiry_of_a_certificate_is_read() {
        for (year, seconds) in [(2030, 1_893_456_000), (2049, 2_493_072_000), (2050, 2_524_608_000)]
        {
            let key = rcgen::KeyPair::generate().unwrap();
            let mut params = rcgen::CertificateParams::default();
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
            let certificate = params.self_signed(&key).unwrap();
            let end = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(not_after(certificate.der()), Some(end));
        }
    }

    /// A certificate of an authority, in PEM.
    fn authority() -> String {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
    }

    #[test]
    fn a_pem_file_is_read_in_full_however_it_was_concatenated() {
        let [one, two] = [authority(), authority()];
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let parameters =
            "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----";
        let indented = format!("    {}\n", one.trim_end().replace('\n', "\n    "));
        let lines = |line_break: &str| two.lines().collect::<Vec<_>>().join(line_break);
        for (name, text) in [
            ("one after the other", format!("{one}{two}")),
            ("without a line break at the end of the first", format!("{}{two}", one.trim_end())),
            ("with a space there", format!("{} {two}", one.trim_end())),
            ("without any at the end", format!("{one}{}", two.trim_end())),
            ("indented", format!("{indented}{two}")),
            ("a byte order mark at the begin", format!("\u{feff}{one}{two}")),
            ("one in the middle", format!("{one}\u{feff}{two}")),
            ("lines end with CR LF", format!("{one}{}", lines("\r\n"))),
            ("lines end with CR", format!("{one}{}", lines("\r"))),
            ("no lines", format!("{one}{}", lines(" "))),
            ("what openssl writes", format!("subject=CN = x\n{one}Certificate:\n    Data:\n{two}")),
            (
                "comments",
                format!("# Old -- until May\n==========\n{one}\n# New ------\n{two}# End"),
            ),
            ("keys between", format!("{key}{one}{parameters}{two}{key}")),
        ] {
            for pem in [Pem::Chain, Pem::Authorities] {
                let read = pem.read(&text).unwrap_or_else(|wrong| panic!("{name}: {wrong}"));
                let found = CertificateDer::pem_slice_iter(read.as_bytes());
                let found: Vec<_> = found.map(|found| found.unwrap()).collect();
                let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
                assert_eq!(found, [der(&one), der(&two)], "{name}");
            }
        }
        let read = Pem::Key.read(&format!("{one}{}{}", parameters, key.trim_end())).unwrap();
        let expected = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        assert_eq!(PrivateKeyDer::from_pem_slice(read.as_bytes()).unwrap(), expected);
    }

    #[test]
    fn an_incomplete_pem_file_is_refused() {
        let [one, two] = [authority(), authority()];
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let (begin, end) = ("-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----");
        let without = |part: &str| two.replace(part, "");
        let relabelled = |label: &str| two.replace("CERTIFICATE", label);
        for (name, second, expected) in [
            ("no END", without(end), "block 2 has no END line"),
            ("cut off", two[..two.len() / 2].to_owned(), "block 2 has no END line"),
            ("cut off in the END line", two[..two.len() - 4].to_owned(), "block 2 has no END line"),
            ("cut off in the BEGIN line", begin[..24].to_owned(), "block 2 has no END line"),
            ("the next one begins before it ends", format!("{}{one}", without(end)), "block 2"),
            ("no BEGIN", without(begin), "after block 1 there is a damaged"),
            ("a dash is missing", two.replacen('-', "", 1), "after block 1 there is a damaged"),
            ("other dashes", two.replace("-----", "—–"), "after block 1 there is a damaged"),
            ("the END of something else", two.replace("END CERT", "END X"), "block 2 has no END"),
            ("a letter too many", two.replace("\nMII", "\nAMII"), "block 2 is not base64"),
            ("no base64", two.replace("\nMII", "\n!II"), "block 2 is not base64"),
            ("a comment in it", two.replacen('\n', "\n# text\n", 1), "block 2 is not base64"),
            ("commented out", two.replace('\n', "\n# "), "block 2 is not base64"),
            ("empty", format!("{begin}\n{end}"), "block 2 is not X.509"),
            ("another thing in it", format!("{begin}\nAAAA\n{end}"), "block 2 is not X.509"),
            ("shorter than it says", two.replace(&two[40..44], ""), "block 2 is not X.509"),
            ("openssl's trusted one", relabelled("TRUSTED CERTIFICATE"), "not used here (block 2)"),
            ("an old label", relabelled("X509 CERTIFICATE"), "not used here (block 2)"),
            ("revocations", relabelled("X509 CRL"), "not used here (block 2)"),
            ("a bag of them", relabelled("PKCS7"), "not used here (block 2)"),
        ] {
            for pem in [Pem::Chain, Pem::Authorities] {
                for text in [format!("{one}{second}"), format!("{}{second}", one.trim_end())] {
                    let wrong = pem.read(&text).expect_err(name);
                    assert!(wrong.contains(expected), "{name}: {wrong}");
                }
            }
        }
        let unencrypted = "no unencrypted private key";
        for (text, expected) in [
            (key.repeat(2), "several private keys"),
            (key.replace("PRIVATE", "ENCRYPTED PRIVATE"), unencrypted),
            (key.replacen("-\n", "-\nProc-Type: 4,ENCRYPTED\n", 1), unencrypted),
            (one.clone(), unencrypted),
            ("REPLACE-ME\n".to_owned(), unencrypted),
            (key.replace("END", "EMD"), "block 1 has no END line"),
            (key.replace("\nM", "\n!"), "block 1 is not base64"),
        ] {
            let wrong = Pem::Key.read(&text).unwrap_err();
            assert!(wrong.contains(expected), "{text}: {wrong}");
        }
        for text in ["", "text", &key] {
            assert!(Pem::Chain.read(text).unwrap_err().contains("no certificate in PEM"));
        }
    }

    #[test]
    fn input_without_a_certificate_has_no_expiry() {
        for bytes in [&b""[..], b"0", &[0x30, 0x82, 0xff, 0xff], &[0x30; 64]] {
            assert_eq!(not_after(bytes), None);
        }
    }
}
