//! gRPC reflection, v1 and v1alpha: the services of this server, and every type that they use. Used by
//! `app`.
//!
//! tonic-reflection supplies the protocol. Its own server ends the stream at the first unknown name,
//! although the protocol has an error response for it; so the answers are made here.
#![allow(clippy::disallowed_types, reason = "the streams of tonic's services hold a tonic::Status")]

use std::pin::Pin;

use prost::Message;
use prost_reflect::{DescriptorError, DescriptorPool, FileDescriptor};
use tokio_stream::{Stream, StreamExt as _};
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::server_reflection_server as v1_server;
use tonic_reflection::pb::v1::{
    ErrorResponse, ExtensionNumberResponse, FileDescriptorResponse, ListServiceResponse,
    ServerReflectionRequest, ServerReflectionResponse, ServiceResponse,
};
use tonic_reflection::pb::v1alpha::server_reflection_server as v1alpha_server;
use tonic_reflection::pb::{v1, v1alpha};

use crate::{grpc, pb};

/// Adds both versions: official clients still use v1alpha.
pub(super) fn add(routes: Routes) -> Result<Routes, DescriptorError> {
    let reflection = Reflection::new()?;
    let v1 = v1_server::ServerReflectionServer::new(reflection.clone());
    let v1alpha = v1alpha_server::ServerReflectionServer::new(reflection);
    let limit = grpc::REQUEST_LIMIT;
    let routes = routes.add_service(v1.max_decoding_message_size(limit));
    Ok(routes.add_service(v1alpha.max_decoding_message_size(limit)))
}

/// The descriptors of everything that this server serves.
#[derive(Clone)]
struct Reflection(DescriptorPool);

impl Reflection {
    fn new() -> Result<Self, DescriptorError> {
        let mut pool = DescriptorPool::new();
        for files in [
            pb::DESCRIPTORS,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            v1::FILE_DESCRIPTOR_SET,
            v1alpha::FILE_DESCRIPTOR_SET,
            // The messages in an error's details.
            tonic_types::pb::FILE_DESCRIPTOR_SET,
        ] {
            pool.decode_file_descriptor_set(files)?;
        }
        Ok(Self(pool))
    }

    /// Answers one request. An unknown name gets an error response; the stream goes on.
    fn answer(&self, question: ServerReflectionRequest) -> ServerReflectionResponse {
        let failed = |code: Code, message: String| {
            MessageResponse::ErrorResponse(ErrorResponse {
                error_code: code.into(),
                error_message: message,
            })
        };
        let answer = match &question.message_request {
            None => failed(Code::InvalidArgument, "the request is empty".to_owned()),
            Some(asked) => self.find(asked).unwrap_or_else(|| {
                failed(Code::NotFound, "this server has no file or symbol of that name".to_owned())
            }),
        };
        ServerReflectionResponse {
            valid_host: question.host.clone(),
            original_request: Some(question),
            message_response: Some(answer),
        }
    }

    fn find(&self, asked: &MessageRequest) -> Option<MessageResponse> {
        let Self(pool) = self;
        let file = match asked {
            MessageRequest::ListServices(_) => {
                let services = pool.services().map(|service| service.full_name().to_owned());
                let service = services.map(|name| ServiceResponse { name }).collect();
                let services = ListServiceResponse { service };
                return Some(MessageResponse::ListServicesResponse(services));
            }
            MessageRequest::AllExtensionNumbersOfType(name) => {
                let message = pool.get_message_by_name(name)?;
                let extensions = message.extensions().map(|extension| extension.number());
                let extensions = ExtensionNumberResponse {
                    base_type_name: name.clone(),
                    extension_number: extensions.filter_map(|n| n.try_into().ok()).collect(),
                };
                return Some(MessageResponse::AllExtensionNumbersResponse(extensions));
            }
            MessageRequest::FileByFilename(name) => pool.get_file_by_name(name)?,
            MessageRequest::FileContainingSymbol(name) => self.defining(name)?,
            MessageRequest::FileContainingExtension(asked) => {
                let message = pool.get_message_by_name(&asked.containing_type)?;
                message.get_extension(asked.extension_number.try_into().ok()?)?.parent_file()
            }
        };
        let file_descriptor_proto = vec![file.encode_to_vec()];
        let file = FileDescriptorResponse { file_descriptor_proto };
        Some(MessageResponse::FileDescriptorResponse(file))
    }

    /// The file that defines this message, enum, service or extension, or a member of one: a field, a
    /// oneof, an enum value or a method.
    fn defining(&self, name: &str) -> Option<FileDescriptor> {
        let Self(pool) = self;
        let message = pool.get_message_by_name(name).map(|message| message.parent_file());
        let number = || pool.get_enum_by_name(name).map(|number| number.parent_file());
        let service = || pool.get_service_by_name(name).map(|service| service.parent_file());
        let extension = || pool.get_extension_by_name(name).map(|found| found.parent_file());
        let whole = message.or_else(number).or_else(service).or_else(extension);
        whole.or_else(|| {
            let (parent, part) = name.rsplit_once('.')?;
            let is_part = match (
                pool.get_message_by_name(parent),
                pool.get_enum_by_name(parent),
                pool.get_service_by_name(parent),
            ) {
                (Some(message), _, _) => {
                    message.get_field_by_name(part).is_some()
                        || message.oneofs().any(|oneof| oneof.name() == part)
                }
                (_, Some(number), _) => number.get_value_by_name(part).is_some(),
                (_, _, Some(service)) => service.methods().any(|method| method.name() == part),
                _ => false,
            };
            is_part.then(|| self.defining(parent))?
        })
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl v1_server::ServerReflection for Reflection {
    type ServerReflectionInfoStream = Answers<ServerReflectionResponse>;

    async fn server_reflection_info(
        &self,
        questions: Request<Streaming<ServerReflectionRequest>>,
    ) -> Result<Response<Self::ServerReflectionInfoStream>, Status> {
        let reflection = self.clone();
        let answers = questions.into_inner().map(move |question| Ok(reflection.answer(question?)));
        Ok(Response::new(Box::pin(answers)))
    }
}

#[tonic::async_trait]
impl v1alpha_server::ServerReflection for Reflection {
    type ServerReflectionInfoStream = Answers<v1alpha::ServerReflectionResponse>;

    async fn server_reflection_info(
        &self,
        questions: Request<Streaming<v1alpha::ServerReflectionRequest>>,
    ) -> Result<Response<Self::ServerReflectionInfoStream>, Status> {
        let reflection = self.clone();
        let answers = questions
            .into_inner()
            .map(move |question| renamed(&reflection.answer(renamed(&question?)?)));
        Ok(Response::new(Box::pin(answers)))
    }
}

/// Converts a message to the other version: the two differ only in names.
fn renamed<M: Message + Default>(message: &impl Message) -> Result<M, Status> {
    M::decode(message.encode_to_vec().as_slice())
        .map_err(|error| Status::internal(format!("the API versions differ: {error}")))
}
