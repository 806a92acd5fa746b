# frozen_string_literal: true

# A Rack application for puma.toml: says who answers and what it got.
NAME = "gen#{ENV.fetch('PSFLIP_GENERATION', '0')}"

app = lambda do |env|
  body = env['rack.input'].read
  echo = env['QUERY_STRING'].delete_prefix('echo=')
  text = "name=#{NAME} pid=#{Process.pid} body=#{body.bytesize} echo=#{echo}\n"
  [200, { 'Content-Type' => 'text/plain', 'Content-Length' => text.bytesize.to_s }, [text]]
end

# Loaded: sd_notify(3), for psflip's health check `notify`. Clients wait in the shared queue until Puma accepts.
if (address = ENV['NOTIFY_SOCKET'])
  require 'socket'
  notifier = Socket.new(:UNIX, :DGRAM)
  notifier.send('READY=1', 0, Socket.sockaddr_un(address.sub(/\A@/, "\0")))
  notifier.close
end

run app
