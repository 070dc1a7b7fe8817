//! The witness's register in etcd: one key, read linearisably and changed by compare-and-swap.
//!
//! Spoken over etcd's JSON gateway (`/v3/kv/range`, `/v3/kv/txn`, `/v3/auth/authenticate`; etcd 3.4 or newer,
//! <https://etcd.io/docs/latest/dev-guide/api_grpc_gateway/>). The swap compares the key's
//! modification revision with the one that was read, so a request that hangs and is carried out late changes
//! nothing once somebody has written.

use crate::config::Witness as Settings;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use lockstep_failover::witness::{Answer, Claim, Register};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use ureq::tls::{Certificate, ClientCert, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};

/// Somebody else wrote between reading and swapping so often: then the answer is that nothing is known.
const SWAPS_MAX: u32 = 5;
/// No answer of etcd to a single key is longer.
const BODY_MAX_BYTES: u64 = 64 << 10;

/// Why the witness could not be asked, in one sentence each.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// A file of the configuration.
    #[error("{file}: {problem}")]
    File {
        /// Which.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No answer, or one that HTTP calls an error.
    #[error("{endpoint}: {problem}")]
    Endpoint {
        /// Who was asked.
        endpoint: String,
        /// What came.
        problem: String,
    },
    /// The key holds something else.
    #[error(
        "the key \"{0}\" holds something that is not a register of Lockstep: use another `key`, or delete it if nothing else needs it"
    )]
    Foreign(String),
    /// Others write all the time.
    #[error("the key \"{0}\" changes all the time: no other pair may use it")]
    Busy(String),
    /// The time is over.
    #[error("no answer within {0} ms")]
    Timeout(u128),
}

/// The register of one pair.
pub struct Witness {
    http: ureq::Agent,
    settings: Settings,
    /// How long one endpoint may take: the others must have their turn.
    each: Duration,
    password: Option<String>,
    token: Option<String>,
    /// The endpoint that answered last.
    first: usize,
}

/// What is stored, and since which revision.
struct Stored {
    register: Option<Register>,
    revision: i64,
}

// The header is what tells an answer of etcd from any other JSON.
#[derive(Deserialize)]
struct Range {
    #[serde(rename = "header")]
    _header: IgnoredAny,
    #[serde(default)]
    kvs: Vec<KeyValue>,
}

#[derive(Deserialize)]
struct KeyValue {
    // The gateway writes 64-bit numbers as strings.
    mod_revision: String,
    #[serde(default)]
    value: String,
}

#[derive(Deserialize)]
struct Txn {
    #[serde(rename = "header")]
    _header: IgnoredAny,
    #[serde(default)]
    succeeded: bool,
}

#[derive(Deserialize)]
struct Login {
    token: String,
}

impl Witness {
    /// Reads the files the settings name; speaks to nobody yet.
    ///
    /// # Errors
    /// A file that cannot be read, or is not what it should be.
    pub fn new(settings: Settings) -> Result<Self, WitnessError> {
        let each = settings.timeout / u32::try_from(settings.endpoints.len()).unwrap_or(1).max(1);
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .tls_config(tls(&settings)?)
            .build();
        let password = settings.password_file.as_deref().map(read).transpose()?;
        let password = password.map(|bytes| String::from_utf8_lossy(&bytes).trim_end().to_owned());
        Ok(Self {
            http: ureq::Agent::new_with_config(config),
            settings,
            each,
            password,
            token: None,
            first: 0,
        })
    }

    /// Asks, and answers within the configured time.
    pub fn ask(&mut self, claim: Claim) -> Answer {
        let end = Instant::now() + self.settings.timeout;
        let mut why = WitnessError::Timeout(self.settings.timeout.as_millis());
        for offset in 0..self.settings.endpoints.len() {
            let at = (self.first + offset) % self.settings.endpoints.len();
            match self.ask_one(at, claim, end) {
                Ok((won, holds)) => {
                    self.first = at;
                    return Answer::Reached { won, holds };
                }
                // Whatever another endpoint says, it is of the same cluster.
                Err(error @ (WitnessError::Foreign(_) | WitnessError::Busy(_))) => {
                    return Answer::Unreachable(error.to_string());
                }
                Err(error) => why = error,
            }
            if Instant::now() >= end {
                break;
            }
        }
        Answer::Unreachable(why.to_string())
    }

    fn ask_one(
        &mut self,
        at: usize,
        claim: Claim,
        end: Instant,
    ) -> Result<(bool, Option<Register>), WitnessError> {
        for _ in 0..SWAPS_MAX {
            let stored = self.read(at, end)?;
            let Some(wanted) = claim.judge(stored.register) else { return Ok((false, stored.register)) };
            if self.swap(at, &stored, wanted, end)? {
                return Ok((true, Some(wanted)));
            }
        }
        Err(WitnessError::Busy(self.settings.key.clone()))
    }

    fn read(&mut self, at: usize, end: Instant) -> Result<Stored, WitnessError> {
        let range: Range =
            self.call(at, "kv/range", &json!({ "key": BASE64.encode(&self.settings.key) }), end)?;
        let Some(stored) = range.kvs.first() else { return Ok(Stored { register: None, revision: 0 }) };
        let foreign = || WitnessError::Foreign(self.settings.key.clone());
        let value = BASE64.decode(&stored.value).map_err(|_| foreign())?;
        let register = std::str::from_utf8(&value).ok().and_then(Register::from_text).ok_or_else(foreign)?;
        let revision = stored.mod_revision.parse().map_err(|_| foreign())?;
        Ok(Stored { register: Some(register), revision })
    }

    fn swap(
        &mut self,
        at: usize,
        stored: &Stored,
        wanted: Register,
        end: Instant,
    ) -> Result<bool, WitnessError> {
        let key = BASE64.encode(&self.settings.key);
        // Revision 0: the key does not exist.
        let compare = json!({
            "key": key, "target": "MOD", "result": "EQUAL", "mod_revision": stored.revision.to_string(),
        });
        let put = json!({ "key": key, "value": BASE64.encode(wanted.to_text()) });
        let body = json!({ "compare": [compare], "success": [{ "request_put": put }] });
        Ok(self.call::<Txn>(at, "kv/txn", &body, end)?.succeeded)
    }

    /// One request; logs in anew when the token has run out.
    fn call<T: serde::de::DeserializeOwned>(
        &mut self,
        at: usize,
        path: &str,
        body: &Value,
        end: Instant,
    ) -> Result<T, WitnessError> {
        if self.token.is_none() {
            self.login(at, end)?;
        }
        match self.post(at, path, body, end)? {
            (401, _) if self.token.take().is_some() => {
                self.login(at, end)?;
                self.decode(at, self.post(at, path, body, end)?)
            }
            answer => self.decode(at, answer),
        }
    }

    fn login(&mut self, at: usize, end: Instant) -> Result<(), WitnessError> {
        let (Some(user), Some(password)) = (&self.settings.user, &self.password) else { return Ok(()) };
        let body = json!({ "name": user, "password": password });
        let login: Login = self.decode(at, self.post(at, "auth/authenticate", &body, end)?)?;
        self.token = Some(login.token);
        Ok(())
    }

    fn post(
        &self,
        at: usize,
        path: &str,
        body: &Value,
        end: Instant,
    ) -> Result<(u16, Vec<u8>), WitnessError> {
        let failed = |problem: String| self.failed(at, problem);
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(WitnessError::Timeout(self.settings.timeout.as_millis()));
        }
        let mut request = self.http.post(format!("{}/v3/{path}", self.settings.endpoints[at]));
        if let Some(token) = &self.token {
            request = request.header("Authorization", token);
        }
        let request = request.config().timeout_global(Some(self.each.min(left))).build();
        let mut answer = request.send_json(body).map_err(|error| failed(error.to_string()))?;
        let bytes = answer.body_mut().with_config().limit(BODY_MAX_BYTES).read_to_vec();
        Ok((answer.status().as_u16(), bytes.map_err(|error| failed(error.to_string()))?))
    }

    fn decode<T: serde::de::DeserializeOwned>(
        &self,
        at: usize,
        answer: (u16, Vec<u8>),
    ) -> Result<T, WitnessError> {
        let (status, bytes) = answer;
        if status != 200 {
            let text: String =
                String::from_utf8_lossy(&bytes).chars().filter(|c| !c.is_control()).take(200).collect();
            return Err(self.failed(at, format!("answered {status}: {text}")));
        }
        serde_json::from_slice(&bytes)
            .map_err(|error| self.failed(at, format!("answered something else than etcd: {error}")))
    }

    fn failed(&self, at: usize, problem: String) -> WitnessError {
        WitnessError::Endpoint { endpoint: self.settings.endpoints[at].clone(), problem }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, WitnessError> {
    std::fs::read(path)
        .map_err(|error| WitnessError::File { file: path.display().to_string(), problem: error.to_string() })
}

fn tls(settings: &Settings) -> Result<TlsConfig, WitnessError> {
    let mut tls = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    // Nobody else's authorities: an etcd cluster has its own.
    let trusted = settings.ca.as_deref().map(pem).transpose()?.unwrap_or_default().0;
    tls = tls.root_certs(RootCerts::new_with_certs(&trusted));
    if let (Some(certificate), Some(key)) = (&settings.certificate, &settings.private_key) {
        let (chain, _) = pem(certificate)?;
        let (_, key_found) = pem(key)?;
        let key = key_found.ok_or_else(|| WitnessError::File {
            file: key.display().to_string(),
            problem: "expected a private key in PEM form, found none".to_owned(),
        })?;
        tls = tls.client_cert(Some(ClientCert::new_with_certs(&chain, key)));
    }
    Ok(tls.build())
}

type Pem = (Vec<Certificate<'static>>, Option<ureq::tls::PrivateKey<'static>>);

fn pem(path: &Path) -> Result<Pem, WitnessError> {
    let text = read(path)?;
    let (mut certificates, mut key) = (Vec::new(), None);
    for item in parse_pem(&text) {
        match item {
            Ok(PemItem::Certificate(certificate)) => certificates.push(certificate),
            Ok(PemItem::PrivateKey(found)) => key = Some(found),
            Ok(_) => {}
            Err(error) => {
                let file = path.display().to_string();
                return Err(WitnessError::File { file, problem: error.to_string() });
            }
        }
    }
    Ok((certificates, key))
}

#[cfg(test)]
#[path = "etcd_tests.rs"]
mod tests;
