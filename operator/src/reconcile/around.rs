//! What stands around the workloads: the way in, what scales them, who may connect, and how they are watched.

use k8s_openapi::NamespaceResourceScope;
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    apply,
    build::Objects,
    error::Error,
    fetch::{self, Live},
    kinds::{self, Kind, Served},
};
use crate::{context::Context, crd::CommercePipeline};

/// Makes the objects around the workloads what they should be.
pub async fn apply(client: &Client, objects: &Objects, live: &mut Live) -> Result<(), Error> {
    live.ingresses = exactly(client, objects.ingress.as_slice(), &live.ingresses).await?;
    live.autoscalers = exactly(client, objects.autoscaler.as_slice(), &live.autoscalers).await?;
    live.policies = exactly(client, &objects.policies, &live.policies).await?;
    live.dashboards = exactly(client, objects.dashboards.as_slice(), &live.dashboards).await?;
    Ok(())
}

/// Does the same with the kinds that the cluster may not have, and gives those that are asked for and were not made. Where it can't
/// be found out whether the cluster has a kind, what there is of it stays as it is.
pub async fn optional(
    resource: &CommercePipeline,
    objects: &Objects,
    context: &Context,
) -> Result<Vec<(Kind, Served)>, Error> {
    let known = kinds::known(context).await;
    let namespace = resource.namespace().unwrap_or_default();
    let mut missing = Vec::new();
    for kind in Kind::ALL {
        let wanted: Vec<_> = objects.optional.iter().filter(|(of, _)| *of == kind).collect();
        let served = known.served(kind);
        if served != Served::Yes {
            missing.extend((!wanted.is_empty()).then_some((kind, served)));
            continue;
        }
        let is = kind.resource();
        let api = Api::namespaced_with(context.client.clone(), &namespace, &is);
        let live = fetch::optional(&api, resource).await?;
        let is_wanted = |name: &str| wanted.iter().any(|(_, wanted)| wanted.name_any() == name);
        apply::prune_in(&api, &is.kind, &live, is_wanted).await?;
        for (_, object) in wanted {
            apply::apply_in(&api, &is.kind, object, &live).await?;
        }
    }
    Ok(missing)
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
