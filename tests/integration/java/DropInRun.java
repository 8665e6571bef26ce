import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.HttpURLConnection;
import java.net.URI;
import java.net.URL;
import java.net.URLEncoder;
import java.nio.charset.StandardCharsets;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * A whole run over the drop-in routes, the way a computing unit of Texera would make it: with
 * nothing but HttpURLConnection, a new connection for each call and no retries.
 *
 * Arguments: endpoint, token, workflow id, computing unit id, user id. Prints the execution's id
 * on success; any answer that is not as expected ends the program with a stack trace and code 1.
 */
public final class DropInRun {
    private final String endpoint;
    private final String token;

    private DropInRun(String endpoint, String token) {
        this.endpoint = endpoint;
        this.token = token;
    }

    /** Status and body of an answer. */
    private static final class Reply {
        final int status;
        final String body;

        Reply(int status, String body) {
            this.status = status;
            this.body = body;
        }
    }

    private Reply call(String method, String path, String body) throws IOException {
        return call(method, path, body, false);
    }

    private Reply call(String method, String path, String body, boolean chunked)
            throws IOException {
        HttpURLConnection connection =
                (HttpURLConnection) new URL(endpoint + path).openConnection();
        connection.setConnectTimeout(5_000);
        connection.setReadTimeout(20_000);
        connection.setRequestMethod(method);
        connection.setRequestProperty("Authorization", "Bearer " + token);
        connection.setRequestProperty("Content-Type", "application/json");
        try {
            if (body != null) {
                connection.setDoOutput(true);
                if (chunked) {
                    connection.setChunkedStreamingMode(16); // no Content-Length, many chunks
                }
                try (OutputStream out = connection.getOutputStream()) {
                    out.write(body.getBytes(StandardCharsets.UTF_8));
                }
            }
            int status = connection.getResponseCode();
            try (InputStream in =
                    status < 400 ? connection.getInputStream() : connection.getErrorStream()) {
                String text = new String(in.readAllBytes(), StandardCharsets.UTF_8);
                return new Reply(status, text);
            }
        } finally {
            connection.disconnect();
        }
    }

    private static void expect(Reply reply, int status, String... parts) {
        if (reply.status != status) {
            throw new AssertionError("expected " + status + ": " + reply.status + " " + reply.body);
        }
        for (String part : parts) {
            if (!reply.body.contains(part)) {
                throw new AssertionError("expected " + part + " in " + reply.body);
            }
        }
    }

    private static long number(Reply reply, String name) {
        Matcher matcher = Pattern.compile("\"" + name + "\":(\\d+)").matcher(reply.body);
        if (reply.status / 100 != 2 || !matcher.find()) {
            throw new AssertionError(name + " of " + reply.status + " " + reply.body);
        }
        return Long.parseLong(matcher.group(1));
    }

    private static String encoded(String text) {
        return URLEncoder.encode(text, StandardCharsets.UTF_8);
    }

    private long run(long workflow, long unit, long user) throws IOException {
        String create =
                "{\"workflowId\":" + workflow + ",\"uid\":%s,\"executionName\":\"%s\","
                        + "\"environmentVersion\":\"{\\\"engine_version\\\":\\\"java\\\"}\","
                        + "\"computingUnitId\":" + unit + ",\"notKnownToYou\":{\"a\":[1]}}";
        expect(call("POST", "/create", String.format(create, user + 1, "theirs")), 403,
                "uid-mismatch");
        long first = number(call("POST", "/create", String.format(create, "null", "")), "eid");
        long eid = number(call("POST", "/create", String.format(create, user, "Straße"), true),
                "eid");
        if (eid <= first) {
            throw new AssertionError("the second run is not newer");
        }
        String latest = "/latest?wid=" + workflow + "&cuid=" + unit + "&more=1";
        if (number(call("GET", latest, null), "eid") != eid) {
            throw new AssertionError("the newest run is not the latest");
        }

        String run = "/" + eid;
        String base = "vfs:///wid/" + workflow + "/eid/" + eid;
        String port = "(logicalOpId=op-1,layerName=main,portId=0,isInternal=false,isInput=false)";
        URI result = URI.create(base + "/globalportid/" + port + "/result");
        String lookUp = run + "/port-result?opId=" + encoded("op-1") + "&portId=0&internal=false";
        expect(call("GET", lookUp, null), 404, "result-uri-not-found");
        expect(call("GET", run + "/port-results", null), 200, "{\"uris\":[]}");

        String stats = "{\"workflowId\":%d,\"uri\":\"" + base + "/runtimestatistics\"}";
        expect(call("PUT", run + "/runtime-stats-uri", String.format(stats, workflow)), 202);
        expect(call("PUT", run + "/runtime-stats-uri", String.format(stats, workflow + 1)), 404);
        expect(call("PUT", run + "/status", "{\"status\":1}"), 202, "\"durable\"");
        String stored = "{\"globalPortId\":\"" + port + "\",\"uri\":\"" + result + "\"}";
        expect(call("POST", run + "/port-result", stored), 202);
        expect(call("POST", run + "/port-result", stored, true), 202); // twice is once
        expect(call("GET", lookUp, null), 200, "{\"uri\":\"" + result + "\"}");
        expect(call("GET", run + "/port-results", null), 200, result.toString());
        String console = "{\"operatorId\":\"op-1\",\"uri\":\"" + base + "%s\"}";
        String fits = String.format(console, "/opid/op-1/consolemessages");
        expect(call("POST", run + "/operator-console", fits), 202);
        expect(call("POST", run + "/operator-console", fits), 202);
        expect(call("POST", run + "/operator-console", String.format(console, "/other")), 422,
                "uri-mismatch");
        for (String transientStatus : new String[] {"PAUSING", "paused", "RESUMING", "Running"}) {
            expect(call("PUT", run + "/status", "{\"status\":\"" + transientStatus + "\"}"), 202);
        }
        expect(call("PUT", run + "/status", "{\"status\":9}"), 400, "\"field\":\"status\"");
        expect(call("PUT", run + "/status", "{\"status\":3}"), 202);
        expect(call("GET", "/2147483647/port-results", null), 404, "execution-not-found");
        return eid;
    }

    public static void main(String[] arguments) throws IOException {
        DropInRun client = new DropInRun(arguments[0], arguments[1]);
        System.out.println(client.run(Long.parseLong(arguments[2]), Long.parseLong(arguments[3]),
                Long.parseLong(arguments[4])));
    }
}
