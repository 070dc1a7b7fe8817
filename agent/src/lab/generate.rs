//! The pair's configuration: generated, or the user's own with the lab's identities pinned in it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use lockstep_engine::link::Identity;
use toml::{Table, Value};

use super::layout::{self, DIRECT_INTERFACE, Home, LAN_INTERFACE, Node, PAIR};
use super::spec::{Disk, Ipv6, Order, Spec};

/// Port of heartbeats and data on both networks.
const PORT: i64 = 7431;

/// What `lab up` was asked for.
#[derive(Debug)]
pub(super) struct Wishes<'a> {
    pub(super) config: Option<&'a Path>,
    pub(super) app: Option<&'a str>,
    pub(super) health: Option<&'a str>,
    pub(super) solo_after: Option<&'a str>,
    pub(super) set: &'a [String],
    pub(super) strict: bool,
    pub(super) tree: Option<Order>,
    pub(super) profile: Option<&'a str>,
    pub(super) ipv6: Option<Ipv6>,
    pub(super) disk: Disk,
    pub(super) agents: bool,
    pub(super) end_with_caller: bool,
}

/// Makes both identities and configurations in the lab's folder.
pub(super) fn write(home: &Home, wishes: &Wishes<'_>) -> Result<Spec> {
    let mut fingerprints = Vec::new();
    for node in Node::ALL {
        let identity = Identity::generate(node.name())?;
        identity.save(&home.seed(node), false)?;
        fingerprints.push(identity.fingerprint().to_string());
    }
    let mut vip = Vec::new();
    let (mut databases, mut trees) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for node in Node::ALL {
        let mut config = match wishes.config {
            Some(dir) => read(&dir.join(format!("{}.toml", node.name())))?,
            None => generate(home, node, wishes),
        };
        if let Some(profile) = wishes.profile {
            section(&mut config, "node")?.insert("profile".into(), profile.into());
        }
        let pair = first_pair(&mut config)?;
        if let Some(after) = wishes.solo_after {
            pair.insert("solo_after".into(), after.into());
        }
        for set in wishes.set {
            let keys: Table =
                set.parse().with_context(|| format!("--set {set}: expected KEY = VALUE as in TOML"))?;
            pair.extend(keys);
        }
        if wishes.strict {
            pair.insert("strict".into(), true.into());
        }
        pair.insert("peer_fingerprint".into(), fingerprints[node.peer() as usize].clone().into());
        if node == Node::A {
            vip = addresses(pair)?;
        }
        databases[node as usize] = paths(pair, "database", node)?;
        trees[node as usize] = paths(pair, "tree", node)?;
        let path = home.config(node);
        std::fs::write(&path, toml::to_string(&config)?).with_context(|| path.display().to_string())?;
    }
    Ok(Spec { disk: wishes.disk, agents: wishes.agents, vip, databases, trees })
}

fn read(path: &Path) -> Result<Table> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("{}: --config DIR holds a.toml and b.toml", path.display()))?;
    text.parse().with_context(|| path.display().to_string())
}

fn section<'t>(table: &'t mut Table, name: &str) -> Result<&'t mut Table> {
    match table.get_mut(name) {
        Some(Value::Table(inner)) => Ok(inner),
        _ => bail!("the configuration has no [{name}]"),
    }
}

fn first_pair(config: &mut Table) -> Result<&mut Table> {
    match config.get_mut("pair").and_then(Value::as_array_mut).map(Vec::as_mut_slice) {
        Some([Value::Table(pair)]) => Ok(pair),
        _ => bail!("the configuration of a lab has exactly one [[pair]]"),
    }
}

fn addresses(pair: &Table) -> Result<Vec<IpAddr>> {
    let list = pair.get("vip").and_then(Value::as_array).context("the configuration has no `vip` list")?;
    let parse = |value: &Value| {
        let text = value.as_str().context("`vip` is a list of strings")?;
        let address = text.split('/').next().unwrap_or(text);
        address.parse().with_context(|| format!("virtual address {text:?}"))
    };
    list.iter().map(parse).collect()
}

fn paths(pair: &Table, kind: &str, node: Node) -> Result<Vec<(String, PathBuf)>> {
    let Some(list) = pair.get(kind).and_then(Value::as_array) else { return Ok(Vec::new()) };
    let own = |entry: &Value| {
        let text = |key: &str| entry.get(key).and_then(Value::as_str);
        let needed = |key| text(key).with_context(|| format!("a [[pair.{kind}]] without `{key}`"));
        let primary = needed("primary")?;
        let path = if node == Node::B { text("secondary").unwrap_or(primary) } else { primary };
        Ok((needed("name")?.to_owned(), path.into()))
    };
    list.iter().map(own).collect()
}

fn generate(home: &Home, node: Node, wishes: &Wishes<'_>) -> Table {
    let mut own = Table::new();
    own.insert("name".into(), node.name().into());
    own.insert("role".into(), if node == Node::A { "primary" } else { "secondary" }.into());

    let mut pair = Table::new();
    pair.insert("id".into(), PAIR.into());
    pair.insert("commit_mode".into(), "durable".into());
    let (v4, v6) = (format!("{}/{}", layout::VIP, layout::LAN_PREFIX.0), format!("{}/128", layout::VIP6));
    let vip = match wishes.ipv6 {
        None => vec![v4],
        Some(Ipv6::Also) => vec![v4, v6],
        Some(Ipv6::Only) => vec![v6],
    };
    pair.insert("vip".into(), vip.into());
    let family = usize::from(wishes.ipv6 == Some(Ipv6::Only));
    let targets = layout::TARGETS.map(|number| layout::lan_addresses(number)[family].to_string());
    pair.insert("targets".into(), targets.to_vec().into());
    let direct = |node| layout::direct_addresses(node)[family];
    let lan = |node: Node| layout::lan_addresses(node.number())[family];
    pair.insert("direct".into(), endpoint(DIRECT_INTERFACE, direct(node), direct(node.peer())));
    pair.insert("lan".into(), endpoint(LAN_INTERFACE, lan(node), lan(node.peer())));

    let mut database = Table::new();
    database.insert("name".into(), "main".into());
    for (key, node) in [("primary", Node::A), ("secondary", Node::B)] {
        database.insert(key.into(), home.data(node).join("app.db").display().to_string().into());
    }
    pair.insert("database".into(), Value::Array(vec![database.into()]));
    if let Some(order) = wishes.tree {
        let mut tree = Table::new();
        tree.insert("name".into(), "files".into());
        for (key, node) in [("primary", Node::A), ("secondary", Node::B)] {
            tree.insert(key.into(), home.tree(node).display().to_string().into());
        }
        tree.insert("order".into(), order.word().into());
        pair.insert("tree".into(), Value::Array(vec![tree.into()]));
    }
    if let Some(command) = wishes.app {
        let mut app = Table::new();
        app.insert("name".into(), "app".into());
        app.insert("command".into(), command.into());
        if let Some(health) = wishes.health {
            app.insert("health".into(), health.into());
        }
        pair.insert("app".into(), Value::Array(vec![app.into()]));
    }

    let mut config = Table::new();
    config.insert("node".into(), own.into());
    config.insert("pair".into(), Value::Array(vec![pair.into()]));
    config
}

fn endpoint(interface: &str, address: IpAddr, peer: IpAddr) -> Value {
    let mut table = Table::new();
    table.insert("interface".into(), interface.into());
    table.insert("address".into(), address.to_string().into());
    table.insert("peer".into(), peer.to_string().into());
    table.insert("port".into(), PORT.into());
    table.into()
}
