//! Until when a certificate is good. A leaf: it knows no other part, and every part may use it.

use std::time::{Duration, SystemTime};

use x509_cert::Certificate;
use x509_cert::der::Decode as _;

/// From when on before its end a certificate is worth a warning.
pub const ENDS_SOON: Duration = Duration::from_hours(14 * 24);

/// The last moment at which a certificate, in DER, is good; `None` where it cannot be read.
#[must_use]
pub fn not_after(der: &[u8]) -> Option<SystemTime> {
    let certificate = Certificate::from_der(der).ok()?;
    let since_1970 = certificate.tbs_certificate().validity().not_after.to_unix_duration();
    SystemTime::UNIX_EPOCH.checked_add(since_1970)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_certificate_is_read() {
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

    #[test]
    fn what_is_no_certificate_has_no_end() {
        for bytes in [&b""[..], b"0", &[0x30, 0x82, 0xff, 0xff], &[0x30; 64]] {
            assert_eq!(not_after(bytes), None);
        }
    }
}
