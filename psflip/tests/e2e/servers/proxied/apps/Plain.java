import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.Executors;

/** The JDK's HTTP server without a shutdown hook: SIGTERM ends it in the middle of answers. */
public class Plain {
    public static void main(String[] args) throws Exception {
        int port = Integer.parseInt(System.getenv("PORT"));
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", port), 0);
        server.setExecutor(Executors.newCachedThreadPool());
        server.createContext("/", exchange -> {
            int length = exchange.getRequestBody().readAllBytes().length;
            String query = exchange.getRequestURI().getQuery();
            String echo = query == null ? "" : query.replaceFirst("^echo=", "");
            String name = "gen" + System.getenv("PSFLIP_GENERATION");
            String text = "name=" + name + " pid=" + ProcessHandle.current().pid() + " body=" + length + " echo=" + echo + "\n";
            byte[] answer = text.getBytes(StandardCharsets.UTF_8);
            exchange.sendResponseHeaders(200, answer.length);
            exchange.getResponseBody().write(answer);
            exchange.close();
        });
        server.start();
    }
}
