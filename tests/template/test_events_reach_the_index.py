"""From the queue to the function: every event is tried often enough, and none is lost unseen."""

from tests.template.sam import Template, deployed, reference

DEAD_LETTERS_SEEN = ("AWS/SQS", "ApproximateNumberOfMessagesVisible")


def dead_letter_queues(template: Template) -> dict[str, str]:
    """Return the dead-letter queue of each queue that has one, by logical ids."""
    found = {}
    for name, properties in template.properties("AWS::SQS::Queue").items():
        target = reference(properties.get("RedrivePolicy", {}).get("deadLetterTargetArn"))
        if target:
            found[name] = target
    return found


def test_each_queue_has_a_dead_letter_queue_or_is_one(transformed: Template) -> None:
    pairs = dead_letter_queues(transformed)
    assert pairs.keys() | set(pairs.values()) == transformed.resources("AWS::SQS::Queue").keys()


def test_each_dead_letter_queue_has_an_alarm(transformed: Template) -> None:
    watched = {
        reference(dimension["Value"])
        for alarm in transformed.properties("AWS::CloudWatch::Alarm").values()
        if (alarm.get("Namespace"), alarm.get("MetricName")) == DEAD_LETTERS_SEEN
        and alarm["Threshold"] == 0
        for dimension in alarm["Dimensions"]
    }
    assert watched == set(dead_letter_queues(transformed).values())


def test_a_dead_letter_queue_takes_letters_of_its_own_queue_only(transformed: Template) -> None:
    queues = transformed.properties("AWS::SQS::Queue")
    for source, target in dead_letter_queues(transformed).items():
        allow = queues[target]["RedriveAllowPolicy"]
        assert allow["redrivePermission"] == "byQueue"
        (arn,) = allow["sourceQueueArns"]
        name = queues[source]["QueueName"]["Fn::Sub"]
        assert arn["Fn::Sub"].endswith("${AWS::Region}:${AWS::AccountId}:" + name)


def test_dead_letters_wait_the_longest_that_sqs_allows(transformed: Template) -> None:
    queues = transformed.properties("AWS::SQS::Queue")
    for target in dead_letter_queues(transformed).values():
        assert queues[target]["MessageRetentionPeriod"] == 14 * 24 * 60 * 60


def test_an_event_is_tried_five_times_by_default(transformed: Template) -> None:
    queues = transformed.properties("AWS::SQS::Queue")
    for source in dead_letter_queues(transformed):
        assert transformed.default(queues[source]["RedrivePolicy"]["maxReceiveCount"]) == 5


def test_a_batch_stays_invisible_six_time_outs_and_its_window(transformed: Template) -> None:
    # What AWS asks for: a throttled batch is retried inside the time the queue hides it.
    queues = transformed.properties("AWS::SQS::Queue")
    functions = transformed.properties("AWS::Lambda::Function")
    for mapping in transformed.properties("AWS::Lambda::EventSourceMapping").values():
        queue = queues[reference(mapping["EventSourceArn"]) or ""]
        function = functions[reference(mapping["FunctionName"]) or ""]
        least = 6 * function["Timeout"] + mapping["MaximumBatchingWindowInSeconds"]
        assert transformed.default(queue["VisibilityTimeout"]) >= least


def test_one_bad_event_does_not_take_its_batch_along(transformed: Template) -> None:
    for mapping in transformed.properties("AWS::Lambda::EventSourceMapping").values():
        assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]


def test_lag_and_function_errors_raise_alarms(transformed: Template) -> None:
    watched = {
        (alarm["MetricName"], reference(alarm["Dimensions"][0]["Value"]))
        for alarm in transformed.properties("AWS::CloudWatch::Alarm").values()
        if "Dimensions" in alarm
    }
    for queue in dead_letter_queues(transformed):
        assert ("ApproximateAgeOfOldestMessage", queue) in watched
    for function in transformed.resources("AWS::Lambda::Function"):
        assert ("Errors", function) in watched


def test_a_procedure_that_stays_incomplete_raises_an_alarm(transformed: Template) -> None:
    function = transformed.properties("AWS::Lambda::Function")["MppsFunction"]
    variables = function["Environment"]["Variables"]
    alarm = transformed.properties("AWS::CloudWatch::Alarm")["ProceduresIncompleteAlarm"]
    assert (alarm["Namespace"], alarm["MetricName"], alarm["Threshold"]) == (
        variables["POWERTOOLS_METRICS_NAMESPACE"],
        "ProceduresIncomplete",
        0,
    )
    assert alarm["Dimensions"] == [
        {"Name": "service", "Value": variables["POWERTOOLS_SERVICE_NAME"]}
    ]


def test_an_e_mail_address_hears_of_alarms_where_one_is_given(written: Template) -> None:
    [topic] = deployed(written).of_type("AWS::SNS::Topic")
    assert "Subscription" not in topic.properties
    [topic] = deployed(written, AlarmEmail="it@clinic.example").of_type("AWS::SNS::Topic")
    assert topic.properties["Subscription"] == [
        {"Protocol": "email", "Endpoint": "it@clinic.example"}
    ]


def test_a_queue_that_is_stuck_takes_a_part_of_an_accounts_concurrency_only(
    transformed: Template,
) -> None:
    # Not reserved concurrency: it is taken from the account for good, and a new account has little.
    for mapping in transformed.properties("AWS::Lambda::EventSourceMapping").values():
        assert transformed.default(mapping["ScalingConfig"]["MaximumConcurrency"]) <= 10
    for function in transformed.properties("AWS::Lambda::Function").values():
        assert "ReservedConcurrentExecutions" not in function
