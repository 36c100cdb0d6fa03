//! What is valid in settings, but hardly intended.

use std::sync::Arc;

use routing::settings::{Balance, By};

use super::routing::Pool;
use super::{Auth, Route, Settings};

impl Settings {
    /// What is valid, but hardly intended: each with its path.
    pub fn warnings(&self) -> Vec<String> {
        let listener = self.open_admin_listener();
        listener
            .into_iter()
            .chain(self.unreachable_routes())
            .chain(self.pools_by_address())
            .collect()
    }

    /// An admin listener that other machines can reach without a credential.
    fn open_admin_listener(&self) -> Option<String> {
        let admin = &self.admin;
        let is_open = admin.is_exposed() && admin.auth.is_none() && admin.allow.is_empty();
        is_open.then(|| {
            format!(
                "admin.address: {} has no login and can be reached from other machines; set \
                 admin.auth or admin.allow, or use a loopback address",
                admin.address
            )
        })
    }

    fn unreachable_routes(&self) -> impl Iterator<Item = String> {
        self.routes.iter().enumerate().filter_map(|(at, route)| {
            let earlier = self.routes.iter().take(at).find(|earlier| earlier.covers(route))?;
            Some(format!(
                "routes[{at}]: the route {:?} gets no requests; {:?} before it matches all of them",
                route.name, earlier.name
            ))
        })
    }

    /// Pools with the key `caller` on routes without callers.
    fn pools_by_address(&self) -> impl Iterator<Item = String> {
        self.pools.iter().enumerate().filter_map(|(at, pool)| {
            let balance = match &pool.settings.balance {
                Balance::Session(By::Caller) => "session",
                Balance::Hash(By::Caller) => "hash",
                _ => return None,
            };
            let route = self.routes.iter().find(|r| r.auth == Auth::Off && r.uses(pool))?;
            Some(format!(
                "pools[{at}].key: `balance: {balance}` with the key `caller` selects by the \
                 client's address on the route {:?}, which has no authentication: all clients \
                 behind one address get one backend; set the key to `header:NAME` or \
                 `cookie:NAME`, or use `auth`",
                route.name
            ))
        })
    }
}

impl Route {
    /// Whether each request that matches `other` matches this route, too.
    fn covers(&self, other: &Route) -> bool {
        (self.path.is_none() || self.path == other.path)
            && (self.models.is_empty() || self.models == other.models)
            && self.headers.iter().all(|header| other.headers.contains(header))
    }

    /// Whether requests of clients go to this pool.
    fn uses(&self, pool: &Arc<Pool>) -> bool {
        self.pools.iter().any(|used| used.settings.name == pool.settings.name)
    }
}
