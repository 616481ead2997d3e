// dcmjs-dimse as a client or a server of the node, for dcmjs_dimse.py: one JSON job, on stdin for a
// client and as the argument for a server, one JSON line on stdout for each thing that happened.
"use strict";

const fs = require("fs");
const { Client, Dataset, Scp, Server, association, constants, log, requests, responses } =
  require("dcmjs-dimse");

const { PresentationContextResult, TransferSyntax } = constants;

log.disableAll();

function tell(event) {
  fs.writeSync(1, JSON.stringify(event) + "\n");
}

function security(tls) {
  if (!tls) return undefined;
  const read = (path) => (path ? fs.readFileSync(path) : undefined);
  return {
    key: read(tls.key),
    cert: read(tls.cert),
    ca: read(tls.ca),
    requestCert: Boolean(tls.mutual),
    rejectUnauthorized: true,
  };
}

// A data set that is sent as it is, whatever is in it, under the UIDs that the job says.
class Bytes extends Dataset {
  constructor({ sop_class, sop_instance, transfer_syntax, bytes }) {
    super({ SOPClassUID: sop_class, SOPInstanceUID: sop_instance }, transfer_syntax);
    this.bytes = Buffer.from(bytes, "base64");
  }

  getDenaturalizedDataset() {
    return this.bytes;
  }
}

// What a job names in JSON, as a request of the library.
const make = {
  echo: () => new requests.CEchoRequest(),
  store: (job) => {
    const request = new requests.CStoreRequest(job.file || new Bytes(job));
    if (job.transfer_syntaxes) request.setAdditionalTransferSyntaxes(job.transfer_syntaxes);
    return request;
  },
  find: (job) => {
    const kind = { STUDY: "Study", SERIES: "Series", IMAGE: "Image" }[job.level];
    return requests.CFindRequest[`create${kind}FindRequest`](job.keys);
  },
  move: (job) =>
    job.sop
      ? requests.CMoveRequest.createImageMoveRequest(job.destination, job.study, job.series, job.sop)
      : job.series
        ? requests.CMoveRequest.createSeriesMoveRequest(job.destination, job.study, job.series)
        : requests.CMoveRequest.createStudyMoveRequest(job.destination, job.study),
  get: (job) =>
    job.series
      ? requests.CGetRequest.createSeriesGetRequest(job.study, job.series)
      : requests.CGetRequest.createStudyGetRequest(job.study),
  "n-action": (job) =>
    withData(new requests.NActionRequest(job.sop_class, job.sop_instance, job.action), job),
  "n-create": (job) =>
    withData(new requests.NCreateRequest(job.sop_class, job.sop_instance), job),
  "n-set": (job) => withData(new requests.NSetRequest(job.sop_class, job.sop_instance), job),
  "n-get": (job) =>
    new requests.NGetRequest(job.sop_class, job.sop_instance, job.attributes || []),
};

function withData(request, job) {
  if (job.data) request.setDataset(new Dataset(job.data));
  return request;
}

function described(response) {
  const told = { status: response.getStatus(), comment: response.getErrorComment() || null };
  if (response.getRemaining) {
    told.remaining = response.getRemaining();
    told.completed = response.getCompleted();
    told.warnings = response.getWarnings();
    told.failures = response.getFailures();
  }
  if (response.hasDataset()) told.data = response.getDataset().getElements();
  return told;
}

function keep(request, folder) {
  const data = request.getDataset();
  const uid = data.getElement("SOPInstanceUID");
  if (folder) data.toFile(`${folder}/${uid}.dcm`);
  return { sop_instance: uid, transfer_syntax: data.getTransferSyntaxUid() };
}

// What a peer granted of what the client asked for.
function granted(agreed) {
  const contexts = agreed.getPresentationContexts().map(({ id }) => agreed.getPresentationContext(id));
  return {
    max_pdu_bytes: agreed.getMaxPduLength(),
    window: [agreed.getMaxAsyncOpsInvoked(), agreed.getMaxAsyncOpsPerformed()],
    contexts: contexts.map((context) => ({
      abstract: context.getAbstractSyntaxUid(),
      result: context.getResult(),
      transfer: context.getAcceptedTransferSyntaxUid() || null,
    })),
  };
}

// Associations one after another; their requests are numbered through all of them.
function runClient(job, [first, ...others], before = 0) {
  const client = new Client();
  first.requests.forEach((wanted, number) => {
    const request = make[wanted.type](wanted);
    request.on("response", (response) =>
      tell({ event: "response", request: before + number, ...described(response) })
    );
    client.addRequest(request);
  });
  for (const { abstract, transfer } of first.contexts) {
    const context = new association.PresentationContext(0, abstract);
    transfer.forEach((uid) => context.addTransferSyntaxUid(uid));
    client.addAdditionalPresentationContext(context, true);
  }
  client.on("cStoreRequest", (request, callback) => {
    tell({ event: "stored", ...keep(request, job.folder) });
    const response = responses.CStoreResponse.fromRequest(request);
    response.setStatus(0);
    callback(response);
  });
  client.on("nEventReportRequest", (request, callback) => report(request, callback, 0));
  client.on("associationAccepted", (agreed) => tell({ event: "accepted", ...granted(agreed) }));
  client.on("associationRejected", (why) =>
    tell({
      event: "rejected",
      result: why.getResult ? why.getResult() : why.result,
      source: why.getSource ? why.getSource() : why.source,
      reason: why.getReason ? why.getReason() : why.reason,
    })
  );
  client.on("abort", () => tell({ event: "aborted" }));
  client.on("networkError", (error) => {
    tell({ event: "network-error", message: String(error.message || error) });
    process.exit(1);
  });
  client.on("closed", () => {
    tell({ event: "closed" });
    if (others.length) runClient(job, others, before + first.requests.length);
  });
  client.send(job.host, job.port, job.calling, job.called, {
    securityOptions: security(job.tls),
    associationLingerTimeout: job.linger_ms,
    asyncOps: { maxAsyncOpsInvoked: job.window, maxAsyncOpsPerformed: job.window },
  });
}

function report(request, callback, status) {
  const data = request.hasDataset() ? request.getDataset() : undefined;
  tell({
    event: "report",
    event_type: request.getEventTypeId(),
    sop_class: request.getAffectedSopClassUid(),
    sop_instance: request.getAffectedSopInstanceUid(),
    transfer_syntax: data && data.getTransferSyntaxUid(),
    data: data && data.getElements(),
  });
  const response = responses.NEventReportResponse.fromRequest(request);
  response.setStatus(status);
  callback(response);
}

function runServer(job) {
  const taken = job.transfer_syntaxes || [
    TransferSyntax.ImplicitVRLittleEndian,
    TransferSyntax.ExplicitVRLittleEndian,
  ];

  class Peer extends Scp {
    associationRequested(asked) {
      tell({
        event: "association",
        calling: asked.getCallingAeTitle(),
        called: asked.getCalledAeTitle(),
      });
      for (const { id } of asked.getPresentationContexts()) {
        const context = asked.getPresentationContext(id);
        const chosen = context.getTransferSyntaxUids().find((uid) => taken.includes(uid));
        if (chosen) context.setResult(PresentationContextResult.Accept, chosen);
        else context.setResult(PresentationContextResult.RejectTransferSyntaxesNotSupported);
      }
      this.sendAssociationAccept();
    }

    cEchoRequest(request, callback) {
      const response = responses.CEchoResponse.fromRequest(request);
      response.setStatus(0);
      callback(response);
    }

    cStoreRequest(request, callback) {
      tell({ event: "stored", ...keep(request, job.folder) });
      const response = responses.CStoreResponse.fromRequest(request);
      response.setStatus(job.status || 0);
      callback(response);
    }

    nEventReportRequest(request, callback) {
      report(request, callback, job.status || 0);
    }

    associationReleaseRequested() {
      this.sendAssociationReleaseResponse();
      tell({ event: "released" });
    }
  }

  const server = new Server(Peer);
  server.on("networkError", (error) =>
    tell({ event: "network-error", message: String(error.message || error) })
  );
  server.on("listening", () => tell({ event: "listening", port: server.server.address().port }));
  server.listen(job.port || 0, { securityOptions: security(job.tls) });
  // Whoever started us holds the other end of stdin: when it is gone, so are we.
  process.stdin.on("end", () => process.exit(0)).resume();
}

const [, , role, job] = process.argv;
if (role === "server") runServer(JSON.parse(job));
else {
  const wanted = JSON.parse(fs.readFileSync(0));
  runClient(wanted, Array(wanted.times).fill(wanted.associations).flat());
}
