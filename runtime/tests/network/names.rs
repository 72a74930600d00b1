//! A name server on loopback, which ends with its test.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{net::UdpSocket, task::JoinHandle};

/// The records of a name.
#[derive(Clone)]
pub enum Records {
    Addresses(Vec<IpAddr>),
    /// Another address at each query, in turn.
    Turns(Vec<IpAddr>),
    /// A CNAME.
    Alias(&'static str),
    /// No response at all.
    Silence,
}

/// Answers queries until it is dropped.
pub struct NameServer {
    pub address: SocketAddr,
    /// Every name that was queried.
    pub asked: Arc<Mutex<Vec<String>>>,
    serving: JoinHandle<()>,
}

const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
const HEADER: usize = 12;

impl NameServer {
    pub async fn start(zone: &[(&'static str, Records)]) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let zone: HashMap<&str, Records> = zone.iter().cloned().collect();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        let serving = tokio::spawn(async move {
            let turn = AtomicUsize::new(0);
            let mut packet = [0; 512];
            while let Ok((length, client)) = socket.recv_from(&mut packet).await {
                let (name, end) = read_name(&packet[..length]);
                seen.lock().unwrap().push(name.clone());
                if let Some(answer) = answer(&packet[..length], &name, end, &zone, &turn) {
                    let _ = socket.send_to(&answer, client).await;
                }
            }
        });
        Self { address, asked, serving }
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// The name that is queried, in lower case, and the offset of its end.
fn read_name(packet: &[u8]) -> (String, usize) {
    let (mut labels, mut at) = (Vec::new(), HEADER);
    while packet[at] > 0 {
        let end = at + 1 + usize::from(packet[at]);
        labels.push(String::from_utf8_lossy(&packet[at + 1..end]).to_lowercase());
        at = end;
    }
    (labels.join("."), at + 1)
}

fn write_name(name: &str) -> Vec<u8> {
    let label = |label: &str| [&[u8::try_from(label.len()).unwrap()], label.as_bytes()].concat();
    name.split('.').flat_map(label).chain([0]).collect()
}

fn record(owner: &[u8], kind: u16, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).unwrap().to_be_bytes();
    // Class IN, and a TTL of 0, so that it is never cached.
    [owner, &kind.to_be_bytes(), &[0, 1, 0, 0, 0, 0], &length, data].concat()
}

fn answer(
    query: &[u8],
    name: &str,
    end: usize,
    zone: &HashMap<&str, Records>,
    turn: &AtomicUsize,
) -> Option<Vec<u8>> {
    let kind = u16::from_be_bytes([query[end], query[end + 1]]);
    let mut answers = Vec::new();
    let (mut owner, mut records) = (vec![0xc0, 0x0c], zone.get(name));
    if let Some(Records::Alias(other)) = records {
        answers.push(record(&owner, CNAME, &write_name(other)));
        (owner, records) = (write_name(other), zone.get(other));
    }
    let addresses = match records {
        Some(Records::Silence) => return None,
        Some(Records::Addresses(addresses)) => addresses.clone(),
        Some(Records::Turns(addresses)) if kind == A => {
            vec![addresses[turn.fetch_add(1, Ordering::Relaxed) % addresses.len()]]
        }
        _ => Vec::new(),
    };
    for address in addresses {
        match address {
            IpAddr::V4(address) if kind == A => answers.push(record(&owner, A, &address.octets())),
            IpAddr::V6(address) if kind == AAAA => answers.push(record(&owner, AAAA, &address.octets())),
            _ => {}
        }
    }
    let status = if records.is_some() { 0x80 } else { 0x83 };
    let count = u8::try_from(answers.len()).unwrap();
    let header = [&query[..2], &[0x81, status, 0, 1, 0, count, 0, 0, 0, 0]].concat();
    Some([&header[..], &query[HEADER..end + 4], &answers.concat()].concat())
}
