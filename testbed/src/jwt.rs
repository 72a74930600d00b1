//! ServiceAccount tokens with claims that no API server would sign.

use anyhow::{Result, anyhow};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use rcgen::{KeyPair, SigningKey as _};
use serde_json::Value;

/// The claims of a token.
pub fn claims(token: &str) -> Result<Value> {
    let claims = token.split('.').nth(1).unwrap_or_default();
    Ok(serde_json::from_slice(&BASE64.decode(claims)?)?)
}

/// The token with other claims, signed with `key`, the API server's own in PEM.
pub fn signed_again(token: &str, claims: &Value, key: &str) -> Result<String> {
    let header = token.split('.').next().unwrap_or_default();
    let signed = format!("{header}.{}", BASE64.encode(serde_json::to_vec(claims)?));
    let signature = fixed(&KeyPair::from_pem(key)?.sign(signed.as_bytes())?)?;
    Ok(format!("{signed}.{}", BASE64.encode(signature)))
}

/// Converts an ECDSA signature from DER, two integers, to the form of a JWT: 32 bytes each.
fn fixed(der: &[u8]) -> Result<Vec<u8>> {
    let odd = || anyhow!("a signature is a sequence of two short integers");
    let mut rest = der.get(2..).ok_or_else(odd)?;
    let mut signature = Vec::new();
    for _ in 0..2 {
        let [2, length, ..] = *rest else { return Err(odd()) };
        let end = 2 + usize::from(length);
        let integer = rest.get(2..end).ok_or_else(odd)?;
        let digits = &integer[integer.iter().take_while(|&&byte| byte == 0).count()..];
        signature.resize(signature.len() + 32_usize.checked_sub(digits.len()).ok_or_else(odd)?, 0);
        signature.extend_from_slice(digits);
        rest = &rest[end..];
    }
    Ok(signature)
}
