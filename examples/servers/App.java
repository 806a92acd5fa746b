import java.io.BufferedReader;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.channels.ClosedChannelException;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;

/** A small HTTP server for java.toml, on the socket that it inherits at descriptor 0; it stops without losing a request. */
public class App {
    private static final ExecutorService CONNECTIONS = Executors.newCachedThreadPool();
    private static volatile boolean ending;

    public static void main(String[] args) throws Exception {
        ServerSocketChannel listener = (ServerSocketChannel) System.inheritedChannel();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> end(listener)));
        new FileOutputStream(System.getenv("READY")).close();
        try {
            while (!ending) {
                SocketChannel client = listener.accept();
                CONNECTIONS.execute(() -> serve(client));
            }
        } catch (ClosedChannelException closed) {
            // by end()
        }
    }

    /** On SIGTERM: stops accepting, and waits for open connections. An idle one may stay open for up to 5 seconds. */
    private static void end(ServerSocketChannel listener) {
        ending = true;
        try {
            listener.close();
            // The accepting thread may have just accepted one more connection.
            Thread.sleep(100);
            CONNECTIONS.shutdown();
            CONNECTIONS.awaitTermination(5, TimeUnit.SECONDS);
        } catch (IOException | InterruptedException stopped) {
            // the process exits anyway
        }
    }

    private static void serve(SocketChannel client) {
        try (client) {
            var in = new BufferedReader(new InputStreamReader(client.socket().getInputStream(), StandardCharsets.ISO_8859_1));
            boolean last = false;
            for (String request; !last && (request = in.readLine()) != null; ) {
                int length = 0;
                for (String header; (header = in.readLine()) != null && !header.isEmpty(); ) {
                    String lower = header.toLowerCase();
                    if (lower.startsWith("content-length:")) {
                        length = Integer.parseInt(lower.substring(15).trim());
                    }
                    last |= lower.equals("connection: close");
                }
                for (int left = length; left > 0 && in.read() >= 0; left--) { }
                // After SIGTERM, every answer is the last one on its connection, and says so (Connection: close).
                last |= ending;
                String text = "name=gen" + System.getenv().getOrDefault("PSFLIP_GENERATION", "0") + " pid="
                    + ProcessHandle.current().pid() + " body=" + length + " echo=" + echo(request) + "\n";
                String head = "HTTP/1.1 200 OK\r\nContent-Length: " + text.length() + (last ? "\r\nConnection: close" : "");
                client.socket().getOutputStream().write((head + "\r\n\r\n" + text).getBytes(StandardCharsets.ISO_8859_1));
            }
        } catch (IOException gone) {
            // the client is
        }
    }

    private static String echo(String request) {
        int at = request.indexOf("?echo=");
        return at < 0 ? "" : request.substring(at + 6).split(" ")[0];
    }
}
