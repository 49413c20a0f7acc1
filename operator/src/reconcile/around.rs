//! What stands around the workloads: the way in, and who may connect.

use k8s_openapi::NamespaceResourceScope;
use kube::{Client, Resource, ResourceExt as _};
use serde::{Serialize, de::DeserializeOwned};

use super::{apply, build::Objects, error::Error, fetch::Live};

/// Makes the objects around the workloads what they should be.
pub async fn apply(client: &Client, objects: &Objects, live: &mut Live) -> Result<(), Error> {
    live.ingresses = exactly(client, objects.ingress.as_slice(), &live.ingresses).await?;
    live.policies = exactly(client, &objects.policies, &live.policies).await?;
    Ok(())
}

/// Applies what is wanted, and deletes what else there is of that kind.
async fn exactly<K>(client: &Client, wanted: &[K], live: &[K]) -> Result<Vec<K>, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Serialize
        + DeserializeOwned
        + std::fmt::Debug,
{
    let is_wanted = |name: &str| wanted.iter().any(|wanted| wanted.name_any() == name);
    apply::prune(client, live, is_wanted).await?;
    let mut applied = Vec::with_capacity(wanted.len());
    for object in wanted {
        applied.push(apply::apply(client, object, live).await?);
    }
    Ok(applied)
}
