//! The forms that JSON Web Signature gives to keys and signatures.

use arx_identity::crypto::Sha256;

/// An ECDSA signature as JWS has it (RFC 7518, 3.4): two numbers of 32 bytes, instead of a
/// DER sequence of two integers.
pub(super) fn fixed(der: &[u8]) -> Vec<u8> {
    let mut rest = &der[2..];
    let mut out = Vec::with_capacity(64);
    for _ in 0..2 {
        let length = usize::from(rest[1]);
        let number = &rest[2..2 + length];
        let number = &number[number.len().saturating_sub(32)..];
        out.extend(std::iter::repeat_n(0, 32 - number.len()));
        out.extend_from_slice(number);
        rest = &rest[2 + length..];
    }
    out
}

/// Modulus and exponent of an RSA public key: the last two integers of its SPKI.
pub(super) fn rsa_numbers(spki: &[u8]) -> (&[u8], &[u8]) {
    // Keys made here have the exponent 65537: five bytes at the end. The modulus stands
    // before it, with a zero in front.
    let modulus_end = spki.len() - 5;
    let bytes = [256, 384, 512].into_iter().find(|bytes| {
        let start = modulus_end - bytes;
        spki[start - 1] == 0 && spki[start - 5] == 0x02
    });
    let start = modulus_end - bytes.expect("a key of 2048, 3072 or 4096 bits");
    (&spki[start..modulus_end], &spki[modulus_end + 2..])
}

/// HMAC (RFC 2104) with SHA-256, which no honest issuer of service-account tokens uses.
pub(super) fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0; 64];
    if key.len() > block.len() {
        block[..32].copy_from_slice(&arx_identity::crypto::sha256(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let pass = |padding: u8, rest: &[u8]| {
        let mut hash = Sha256::new();
        hash.update(&block.map(|byte| byte ^ padding));
        hash.update(rest);
        hash.finish()
    };
    pass(0x5c, &pass(0x36, message))
}

#[cfg(test)]
mod tests {
    use super::hmac_sha256;

    #[test]
    fn hmac_is_that_of_the_standard_s_second_example() {
        // RFC 4231, 4.3.
        let hash = hmac_sha256(b"Jefe", b"what do ya want for nothing?");
        assert_eq!(hash[..4], [0x5b, 0xdc, 0xc1, 0x46]);
        assert_eq!(hash[28..], [0x64, 0xec, 0x38, 0x43]);
    }
}
