//! A name server that says what it is told: a stand-in for the bad days of real ones.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use hickory_resolver::proto::{
    op::{Message, OpCode, ResponseCode},
    rr::{RData, Record, RecordType, rdata::CNAME},
};
use tokio::{net::UdpSocket, sync::watch, task::JoinSet};

use super::DEADLINE;

/// What the scripted server says to one question.
#[derive(Clone)]
pub(super) enum Reply {
    Records(Vec<RData>),
    Code(ResponseCode),
    Silence,
}

pub(super) type Script = BTreeMap<(String, RecordType), Reply>;

/// A name server that says what it is told, over UDP.
pub(super) struct Scripted {
    pub(super) address: SocketAddr,
    pub(super) script: watch::Sender<Script>,
    /// How many questions there were for each name.
    pub(super) asked: watch::Receiver<BTreeMap<String, u64>>,
    _task: JoinSet<()>,
}

impl Scripted {
    pub(super) async fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let (script, lines) = watch::channel(Script::new());
        let (count, asked) = watch::channel(BTreeMap::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut buffer = [0_u8; 1500];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                let question = Message::from_vec(&buffer[..length]).unwrap();
                let name = question.queries[0].name.to_lowercase().to_string();
                count.send_modify(|count| *count.entry(name).or_default() += 1);
                let reply = answer(&question, &lines.borrow());
                if let Some(reply) = reply {
                    socket
                        .send_to(&reply.to_vec().unwrap(), from)
                        .await
                        .unwrap();
                }
            }
        });
        Self {
            address,
            script,
            asked,
            _task: tasks,
        }
    }

    pub(super) fn say(&self, name: &str, kind: RecordType, reply: Reply) {
        self.script
            .send_modify(|script| drop(script.insert((format!("{name}."), kind), reply)));
    }

    pub(super) fn asked(&self, name: &str) -> u64 {
        self.asked
            .borrow()
            .get(&format!("{name}."))
            .copied()
            .unwrap_or(0)
    }

    /// Waits until so many questions more were asked for a name.
    pub(super) async fn asked_again(&self, name: &str, more: u64) {
        let (name, goal) = (format!("{name}."), self.asked(name) + more);
        let mut asked = self.asked.clone();
        let reached = asked.wait_for(|asked| asked.get(&name).is_some_and(|asked| *asked >= goal));
        tokio::time::timeout(DEADLINE, reached)
            .await
            .unwrap()
            .unwrap();
    }

    pub(super) fn at(&self, name: &str, addresses: &[&str]) {
        let records = addresses
            .iter()
            .map(|address| RData::from(address.parse::<IpAddr>().unwrap()))
            .collect();
        self.say(name, RecordType::A, Reply::Records(records));
    }
}

fn answer(question: &Message, script: &Script) -> Option<Message> {
    let query = question.queries[0].clone();
    let mut reply = Message::response(question.metadata.id, OpCode::Query);
    reply.metadata.recursion_available = true;
    let line = script.get(&(query.name.to_lowercase().to_string(), query.query_type));
    match line.cloned().unwrap_or(Reply::Records(Vec::new())) {
        Reply::Silence => return None,
        Reply::Code(code) => reply.metadata.response_code = code,
        Reply::Records(records) => {
            // A CNAME leads to the records behind it.
            let mut owner = query.name.clone();
            for data in records {
                let next = if let RData::CNAME(CNAME(next)) = &data {
                    next.clone()
                } else {
                    owner.clone()
                };
                reply.add_answer(Record::from_rdata(owner, 60, data));
                owner = next;
            }
        }
    }
    reply.add_query(query);
    Some(reply)
}
