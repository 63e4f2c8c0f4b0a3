//! Reflection: the names that it knows, and that an unknown name does not end the stream.

use prost::Message as _;
use prost_types::FileDescriptorProto;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ExtensionRequest, ServerReflectionRequest};
use tonic_reflection::pb::v1alpha::server_reflection_client::ServerReflectionClient as AlphaClient;
use tonic_reflection::pb::{v1, v1alpha};

use crate::support::child::Serving;
use crate::support::connect;

/// The same message of the other protocol version, converted through the wire format.
fn renamed<M: prost::Message + Default>(message: &impl prost::Message) -> M {
    M::decode(message.encode_to_vec().as_slice()).unwrap()
}

/// A file by its name, an error by its code, and names by themselves.
fn shown(answer: MessageResponse) -> String {
    match answer {
        MessageResponse::FileDescriptorResponse(files) => {
            let [file] = &files.file_descriptor_proto[..] else { panic!("{files:?}") };
            FileDescriptorProto::decode(file.as_slice()).unwrap().name().to_owned()
        }
        MessageResponse::ErrorResponse(error) => {
            assert!(!error.error_message.is_empty());
            error.error_code.to_string()
        }
        MessageResponse::ListServicesResponse(services) => {
            let names = services.service.into_iter().map(|service| service.name);
            names.collect::<Vec<_>>().join(" ")
        }
        MessageResponse::AllExtensionNumbersResponse(numbers) => {
            format!("{} {:?}", numbers.base_type_name, numbers.extension_number)
        }
    }
}

/// The requests, and their expected answers.
fn cases() -> Vec<(Option<MessageRequest>, &'static str)> {
    use MessageRequest::{
        AllExtensionNumbersOfType, FileByFilename, FileContainingExtension, FileContainingSymbol,
        ListServices,
    };
    const NOT_FOUND: &str = "5";
    const INVALID_ARGUMENT: &str = "3";
    const CONTRACT: &str = "orderquery/v1/order_service.proto";
    const SERVICES: &str = "orderquery.v1.OrderService grpc.health.v1.Health \
        grpc.reflection.v1.ServerReflection grpc.reflection.v1alpha.ServerReflection";
    let symbol = |name: &str| Some(FileContainingSymbol(name.to_owned()));
    let extension =
        ExtensionRequest { containing_type: "google.rpc.ErrorInfo".into(), extension_number: 1 };
    vec![
        (symbol("no.such.Symbol"), NOT_FOUND),
        (symbol(""), NOT_FOUND),
        (symbol("orderquery.v1.OrderService"), CONTRACT),
        (symbol("orderquery.v1.OrderService.GetOrder"), CONTRACT),
        (symbol("orderquery.v1.OrderService.NoSuchMethod"), NOT_FOUND),
        (symbol("orderquery.v1.Order"), CONTRACT),
        (symbol("orderquery.v1.Order.status"), CONTRACT),
        (symbol("orderquery.v1.OrderResult.result"), CONTRACT),
        (symbol("orderquery.v1.OrderStatus"), CONTRACT),
        (symbol("orderquery.v1.OrderStatus.ORDER_STATUS_PAID"), CONTRACT),
        (symbol("grpc.health.v1.Health"), "health.proto"),
        (symbol("google.rpc.ErrorInfo"), "error_details.proto"),
        (symbol("google.rpc.RetryInfo"), "error_details.proto"),
        (symbol("google.rpc.QuotaFailure.Violation"), "error_details.proto"),
        (symbol("google.rpc.Status"), "status.proto"),
        (symbol("google.protobuf.Any"), "google/protobuf/any.proto"),
        (Some(FileByFilename(CONTRACT.into())), CONTRACT),
        (
            Some(FileByFilename("google/protobuf/duration.proto".into())),
            "google/protobuf/duration.proto",
        ),
        (Some(FileByFilename("no/such/file.proto".into())), NOT_FOUND),
        (Some(FileContainingExtension(extension)), NOT_FOUND),
        (Some(AllExtensionNumbersOfType("google.rpc.ErrorInfo".into())), "google.rpc.ErrorInfo []"),
        (Some(AllExtensionNumbersOfType("no.such.Type".into())), NOT_FOUND),
        (Some(ListServices(String::new())), SERVICES),
        (None, INVALID_ARGUMENT),
    ]
}

#[tokio::test]
async fn every_reflection_query_is_answered_and_none_ends_the_stream() {
    let questions: Vec<_> = cases()
        .into_iter()
        .map(|(message_request, _)| ServerReflectionRequest {
            host: "any".to_owned(),
            message_request,
        })
        .collect();
    let server = Serving::start_with("", |command| {
        command.arg("--dev");
    });
    let channel = connect(server.address).await;
    let asked = tokio_stream::iter(questions.clone());
    let answers = ServerReflectionClient::new(channel.clone()).server_reflection_info(asked).await;
    let mut answers = answers.unwrap().into_inner();
    let asked: Vec<_> = questions.iter().map(renamed::<v1alpha::ServerReflectionRequest>).collect();
    let mut client = AlphaClient::new(channel);
    let alpha = client.server_reflection_info(tokio_stream::iter(asked)).await;
    let mut alpha = alpha.unwrap().into_inner();
    for (question, (case, expected)) in questions.into_iter().zip(cases()) {
        let answer = answers.message().await.unwrap().expect("the stream goes on");
        let same: v1::ServerReflectionResponse = renamed(&alpha.message().await.unwrap().unwrap());
        assert_eq!(answer, same);
        assert_eq!(answer.original_request, Some(question));
        assert_eq!(shown(answer.message_response.unwrap()), expected, "{case:?}");
    }
    assert_eq!(answers.message().await.unwrap(), None);
}
