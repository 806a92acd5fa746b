<%@ page contentType="text/plain" session="false" trimDirectiveWhitespaces="true" %>
pid=<%= ProcessHandle.current().pid() %>
