//! The test bed: the real servers, processes and clusters that the tests run Samovar on.
//!
//! A test asks for a [`Cluster`]: a namespace on a real kube-apiserver that all tests of the process share.
//! Programs under test are [`Process`]es; whatever a test starts ends with it, and at the latest with the
//! test process, however that ends.

mod api_proxy;
mod bed;
mod cluster;
mod control_plane;
mod eventually;
mod helm;
mod image;
pub mod jwt;
mod node;
mod pki;
mod process;
mod registry;
mod scratch;
pub mod server;
mod stage;
pub mod upstream;

pub use api_proxy::{ApiProxy, Link, Write};
pub use bed::{Node, Server, TestBed};
pub use cluster::Cluster;
pub use control_plane::ControlPlane;
pub use eventually::eventually;
pub use helm::Helm;
pub use image::{CLIENT, Image, push_client, push_images};
pub use node::{AGENT_NAMESPACE, AGENT_PORT, AgentPod};
pub use process::{Process, free_port};
pub use registry::{Descriptor, Registry};
pub use scratch::scratch;
pub use stage::{ADD, MULTIPLY, Stage, condition, message};
