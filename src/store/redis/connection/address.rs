//! The address in `store.url`: of one server, of the sentinels that name it, or of nodes of a cluster. Used by
//! the connection.
//!
//! The texts about a wrong URL hold no part of it: it may hold passwords, and a typing error may put
//! one anywhere.

use ::redis::{Client, Cmd, IntoConnectionInfo as _, RedisConnectionInfo, cmd, parse_redis_url};

use super::cluster::Cluster;
use super::sentinels::{Sentinels, bare, client_at};

/// Where a sentinel listens if its address has no port.
const SENTINEL_PORT: u16 = 26379;

/// The most hosts of one URL: each sentinel is asked every second.
const MOST_HOSTS: usize = 16;

const NO_FRAGMENT: &str = "must have no #fragment: certificates are always checked";

const SERVER: &str = "must be like redis://user:password@host:6379/0, or rediss:// for TLS; \
                      special characters of a password are percent-encoded";

const SENTINELS: &str = "must be like redis-sentinel://user:password@host:26379,host:26379/MASTER, \
                         or rediss-sentinel:// for TLS; special characters of a password are \
                         percent-encoded";

/// Where a node of a cluster listens if its address has no port.
const NODE_PORT: u16 = 6379;

const NODES: &str = "must be like redis-cluster://user:password@host:6379,host:6379, or \
                     rediss-cluster:// for TLS; special characters of a password are percent-encoded";

/// How to find the server, and how to greet it.
pub(super) struct Address {
    pub(super) route: Route,
    /// The first commands on a new connection: authentication and the choice of the database. The
    /// library could send them too, but would hide the server's error word if they are refused.
    pub(super) greeting: Vec<Cmd>,
    /// The same for a connection that the library greets.
    pub(super) settings: RedisConnectionInfo,
}

/// How to find the server.
pub(super) enum Route {
    /// At one address.
    Direct(Client),
    /// Where the sentinels say.
    Sentinels(Sentinels),
    /// At the nodes of a cluster.
    Cluster(Box<Cluster>),
}

impl Address {
    /// Reads a URL.
    ///
    /// # Errors
    /// The problem with the URL, without any part of it.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let parsed = match url.split_once("://") {
            Some(("redis-sentinel", rest)) => Self::of_sentinels(rest, false),
            Some(("rediss-sentinel", rest)) => Self::of_sentinels(rest, true),
            Some(("redis-cluster", rest)) => Self::of_cluster(rest, false),
            Some(("rediss-cluster", rest)) => Self::of_cluster(rest, true),
            _ => return Self::of_server(url),
        };
        parsed.map_err(str::to_owned)
    }

    fn of_server(url: &str) -> Result<Self, String> {
        // The library's own error texts are not used: some contain parts of the URL.
        let parsed = parse_redis_url(url).ok_or(SERVER)?;
        if !matches!(parsed.scheme(), "redis" | "rediss")
            || parsed.host_str().unwrap_or("").is_empty()
        {
            return Err(SERVER.to_owned());
        }
        if parsed.fragment().is_some() {
            return Err(NO_FRAGMENT.to_owned());
        }
        let whole = url.into_connection_info().map_err(|_| SERVER)?;
        let settings = whole.redis_settings().clone();
        let client = Client::open(whole.set_redis_settings(bare())).map_err(|_| SERVER)?;
        Ok(Self { route: Route::Direct(client), greeting: greeting(&settings), settings })
    }

    /// Reads what follows the scheme. The library knows no such URL.
    fn of_sentinels(rest: &str, is_tls: bool) -> Result<Self, &'static str> {
        if rest.contains('#') {
            return Err(NO_FRAGMENT);
        }
        let (location, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, master) = location.split_once('/').unwrap_or((location, ""));
        let (user, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let hosts = addresses(hosts, &SENTINEL_LIST)?;
        // The documentation of Redis allows these characters.
        let may_be_named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if master.is_empty() {
            return Err("must have the name of the master behind the sentinels, as in \
                        redis-sentinel://host:26379/MASTER");
        }
        if !master.chars().all(may_be_named) {
            return Err(SENTINELS);
        }
        let parameters = Parameters::read(query)?;
        let settings = in_front(user).ok_or(SENTINELS)?.set_db(parameters.database);
        let own = greeting(&parameters.credentials()?);
        let client = |(host, port)| client_at(host, port, is_tls).ok_or(SENTINELS);
        let clients: Vec<_> = hosts.into_iter().map(client).collect::<Result<_, _>>()?;
        let sentinels = Sentinels::new(master, clients, &own, is_tls);
        let route = Route::Sentinels(sentinels);
        Ok(Self { route, greeting: greeting(&settings), settings })
    }

    /// Reads what follows the scheme.
    fn of_cluster(rest: &str, is_tls: bool) -> Result<Self, &'static str> {
        if rest.contains('#') {
            return Err(NO_FRAGMENT);
        }
        let (user, hosts) = rest.rsplit_once('@').unwrap_or(("", rest));
        let hosts = hosts.strip_suffix('/').unwrap_or(hosts);
        if hosts.contains(['/', '?']) {
            return Err("must have nothing behind the nodes: a cluster has one database");
        }
        let settings = in_front(user).ok_or(NODES)?;
        let client = |(host, port)| client_at(host, port, is_tls).ok_or(NODES);
        let nodes = addresses(hosts, &NODE_LIST)?.into_iter().map(client);
        let cluster = Cluster::new(nodes.collect::<Result<_, _>>()?, &settings).ok_or(NODES)?;
        let route = Route::Cluster(Box::new(cluster));
        Ok(Self { route, greeting: greeting(&settings), settings })
    }
}

/// What a list of hosts is of.
struct List {
    port: u16,
    form: &'static str,
    is_empty: &'static str,
    is_repeated: &'static str,
    is_long: &'static str,
}

const SENTINEL_LIST: List = List {
    port: SENTINEL_PORT,
    form: SENTINELS,
    is_empty: "must list the sentinels as host:port, with commas between them",
    is_repeated: "must list each sentinel once: each has one vote",
    is_long: "must list at most 16 sentinels",
};

const NODE_LIST: List = List {
    port: NODE_PORT,
    form: NODES,
    is_empty: "must list nodes of the cluster as host:port, with commas between them",
    is_repeated: "must list each node once",
    is_long: "must list at most 16 nodes: they tell the others",
};

/// The parameters behind the `?`.
#[derive(Default)]
struct Parameters<'a> {
    database: i64,
    sentinel_user: Option<&'a str>,
    sentinel_password: Option<&'a str>,
}

impl<'a> Parameters<'a> {
    fn read(query: &'a str) -> Result<Self, &'static str> {
        let mut read = Self::default();
        let mut seen = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "db" => {
                    let number = value.parse::<u16>();
                    read.database =
                        number.map_err(|_| "must have a number in db, as in ?db=0")?.into();
                }
                "sentinel_user" => read.sentinel_user = Some(value),
                "sentinel_password" => read.sentinel_password = Some(value),
                _ => {
                    return Err("must have no parameters but db, sentinel_user and \
                                sentinel_password; a ? or & of a password is percent-encoded");
                }
            }
            if seen.contains(&name) {
                return Err("must have each parameter once");
            }
            seen.push(name);
        }
        Ok(read)
    }

    /// The credentials for the sentinels.
    fn credentials(&self) -> Result<RedisConnectionInfo, &'static str> {
        let user = self.sentinel_user.unwrap_or_default();
        match self.sentinel_password {
            None if !user.is_empty() => Err("must have a sentinel_password beside sentinel_user"),
            Some("") => Err("must have no empty sentinel_password"),
            password => credentials(user, password).ok_or(SENTINELS),
        }
    }
}

/// Percent-decodes credentials, as the library does. `+` stays: it is no space.
fn credentials(user: &str, password: Option<&str>) -> Option<RedisConnectionInfo> {
    let mut url = parse_redis_url("redis://host")?;
    url.set_username(user).ok()?;
    url.set_password(password).ok()?;
    Some(url.into_connection_info().ok()?.redis_settings().clone())
}

/// The hosts and ports of a list.
fn addresses(hosts: &str, list: &List) -> Result<Vec<(String, u16)>, &'static str> {
    let mut addresses = Vec::new();
    if hosts.is_empty() {
        return Err(list.is_empty);
    }
    for item in hosts.split(',') {
        let url = parse_redis_url(&format!("redis://{item}")).ok_or(list.form)?;
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let address = (host, url.port().unwrap_or(list.port));
        // Whatever the library refuses too, such as 0.0.0.0.
        if address.0.is_empty() || url.into_connection_info().is_err() {
            return Err(list.form);
        }
        if addresses.contains(&address) {
            return Err(list.is_repeated);
        }
        addresses.push(address);
    }
    if addresses.len() > MOST_HOSTS {
        return Err(list.is_long);
    }
    Ok(addresses)
}

/// Reads what is in front of the hosts.
fn in_front(user: &str) -> Option<RedisConnectionInfo> {
    match user.split_once(':') {
        Some((user, password)) => credentials(user, Some(password)),
        None => credentials(user, None),
    }
}

/// The first commands on a connection.
fn greeting(settings: &RedisConnectionInfo) -> Vec<Cmd> {
    let mut greeting = Vec::new();
    if let Some(password) = settings.password() {
        let mut command = cmd("AUTH");
        command.arg(settings.username()).arg(password);
        greeting.push(command);
    }
    if settings.db() != 0 {
        let mut command = cmd("SELECT");
        command.arg(settings.db());
        greeting.push(command);
    }
    greeting
}

#[cfg(test)]
mod tests {
    use ::redis::{Arg, ConnectionAddr};

    use super::*;
    use crate::store::redis::connection::sentinels::Sentinel;

    /// The words of each command.
    fn words(commands: &[Cmd]) -> Vec<String> {
        let word = |arg: Arg<&[u8]>| match arg {
            Arg::Simple(word) => String::from_utf8(word.to_vec()).unwrap(),
            _ => panic!("not a word"),
        };
        commands.iter().map(|cmd| cmd.args_iter().map(word).collect::<Vec<_>>().join(" ")).collect()
    }

    /// What a URL means, in one line.
    fn meaning(url: &str) -> String {
        let Address { route, greeting, .. } = Address::parse(url).expect(url);
        let server = match route {
            Route::Direct(client) => client.get_connection_info().addr().to_string(),
            Route::Sentinels(Sentinels { question, all, .. }) => {
                let question = words(&[question]).remove(0);
                let master = question.strip_prefix("SENTINEL GET-MASTER-ADDR-BY-NAME ").unwrap();
                let address = |one: &Sentinel| {
                    let address = one.client.get_connection_info().addr();
                    let is_tls = matches!(address, ConnectionAddr::TcpTls { insecure: false, .. });
                    let own = words(&one.greeting).join(", ");
                    format!(" {}{address} {own}", if is_tls { "TLS " } else { "" })
                };
                let all: Vec<_> = all.iter().map(address).collect();
                format!("{master} by{}", all.concat().trim_end())
            }
            Route::Cluster(cluster) => {
                let address = |node: &Client| {
                    let address = node.get_connection_info().addr().clone();
                    let is_tls = matches!(address, ConnectionAddr::TcpTls { insecure: false, .. });
                    format!("{}{address}", if is_tls { "TLS " } else { "" })
                };
                let all: Vec<_> = cluster.nodes.iter().map(address).collect();
                format!("cluster of {}", all.join(" "))
            }
        };
        format!("{server}; {}", words(&greeting).join(", "))
    }

    #[test]
    fn every_form_of_url_is_read() {
        for (url, means) in [
            ("redis://h", "h:6379; "),
            ("rediss://u:p%40@h:1/2", "h:1; AUTH u p@, SELECT 2"),
            ("redis-cluster://h", "cluster of h:6379; "),
            ("redis-cluster://u:p%40@h:1,[::1]/", "cluster of h:1 ::1:6379; AUTH u p@"),
            ("rediss-cluster://h,i:2", "cluster of TLS h:6379 TLS i:2; "),
            ("redis-sentinel://h/m", "m by h:26379; "),
            ("redis-sentinel://h:1,i/my.Master-1_", "my.Master-1_ by h:1  i:26379; "),
            ("redis-sentinel://[::1]:2,[::2]/m", "m by ::1:2  ::2:26379; "),
            ("rediss-sentinel://h,10.0.0.1:5/m?db=0", "m by TLS h:26379  TLS 10.0.0.1:5; "),
            ("redis-sentinel://u:p@h/m?db=3", "m by h:26379; AUTH u p, SELECT 3"),
            ("redis-sentinel://:p@h/m", "m by h:26379; AUTH p"),
            ("redis-sentinel://u:p%2Fa%40b+c:d@h/m", "m by h:26379; AUTH u p/a@b+c:d"),
            (
                "redis-sentinel://u:p@h/m?sentinel_password=a%26b+c&db=1",
                "m by h:26379 AUTH a&b+c; AUTH u p, SELECT 1",
            ),
            (
                "redis-sentinel://h,i/m?sentinel_user=s%3Au&sentinel_password=/@:%21",
                "m by h:26379 AUTH s:u /@:! i:26379 AUTH s:u /@:!; ",
            ),
        ] {
            assert_eq!(meaning(url), means, "{url}");
        }
    }

    #[test]
    fn a_wrong_url_is_reported_without_any_part_of_it() {
        let many: Vec<_> = (1..=17).map(|port| format!("h:{port}")).collect();
        let many = format!("redis-sentinel://u:hunter2@{}/hunter2", many.join(","));
        for (url, told) in [
            ("redis-sentinel://u:hunter2@/m", "must list the sentinels"),
            ("redis-sentinel://", "must list the sentinels"),
            ("redis-sentinel:///m", "must list the sentinels"),
            ("redis-sentinel://u:hunter2@h,/m", "must be like"),
            ("redis-sentinel://u:hunter2@h:port/m", "must be like"),
            ("redis-sentinel://u:hunter2@h:65536/m", "must be like"),
            ("redis-sentinel://u:hunter2@0.0.0.0/m", "must be like"),
            ("redis-sentinel://u:hunter2@[::/m", "must be like"),
            ("redis-sentinel://u:hunter2@:26379/m", "must be like"),
            ("redis-sentinel://u:hunter2@h:1,h:1/m", "must list each sentinel once"),
            ("redis-sentinel://u:hunter2@h,h:26379/m", "must list each sentinel once"),
            (&many, "must list at most 16"),
            ("redis-sentinel://u:hunter2@h", "must have the name of the master"),
            ("redis-sentinel://u:hunter2@h/", "must have the name of the master"),
            ("redis-sentinel://u:hunter2@h/?db=0", "must have the name of the master"),
            ("redis-sentinel://u:hunter2@h/m/0", "must be like"),
            ("redis-sentinel://u:hun/ter2@h/m", "must be like"),
            ("redis-sentinel://u:1/hunter2@h/m", "must be like"),
            ("redis-sentinel://u:%ff@h/m", "must be like"),
            ("rediss-sentinel://u:hunter2@h/m#insecure", "must have no #fragment"),
            ("redis-sentinel://u:hunter2@h/m?db=", "must have a number in db"),
            ("redis-sentinel://u:hunter2@h/m?db=-1", "must have a number in db"),
            ("redis-sentinel://u:hunter2@h/m?db=hunter2", "must have a number in db"),
            ("redis-sentinel://u:hunter2@h/m?db=1&db=2", "must have each parameter once"),
            ("redis-sentinel://u:hunter2@h/m?hunter2=1", "must have no parameters but"),
            ("redis-sentinel://u:hunter2@h/m?hunter2", "must have no parameters but"),
            ("redis-sentinel://u:hunt?er2@h/m", "must be like"),
            ("redis-sentinel://h/m?sentinel_password=hunt&er2", "must have no parameters but"),
            ("redis-sentinel://h/m?sentinel_user=u", "must have a sentinel_password"),
            ("redis-sentinel://h/m?sentinel_password=", "must have no empty"),
            ("redis-sentinel://h/m?sentinel_password=%ff", "must be like"),
            ("redis-sentinels://u:hunter2@h/m", "must be like redis://"),
            ("redis-cluster://u:hunter2@", "must list nodes"),
            ("redis-cluster://u:hunter2@h,h:6379", "must list each node once"),
            ("redis-cluster://u:hunter2@h/0", "must have nothing behind the nodes"),
            ("redis-cluster://u:hunter2@h?db=0", "must have nothing behind the nodes"),
            ("redis-cluster://u:hun/ter2@h", "must be like redis-cluster://"),
            ("redis-cluster://u:hunter2@h:port", "must be like redis-cluster://"),
            ("rediss-cluster://u:hunter2@h#insecure", "must have no #fragment"),
            ("Redis-sentinel://u:hunter2@h/m", "must be like redis://"),
        ] {
            let problem = Address::parse(url).map(drop).expect_err(url);
            assert!(problem.starts_with(told), "{url}: {problem}");
            assert!(!problem.contains("unt") && !problem.contains("ter2"), "{problem}");
        }
    }
}
